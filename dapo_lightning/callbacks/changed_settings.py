"""Gives a resumed run the settings that were changed; a checkpoint restores those that it was saved with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import lightning as L
from torch.optim import Optimizer


class ChangedSettings(L.Callback):
    """Applies changes once the checkpoint is loaded.

    Args:
        changes: the new values by key, such as `optimizer.lr`.
        optimizer: parameter groups -> optimizer with the new settings.
    """

    def __init__(self, changes: Mapping[str, Any], optimizer: Callable[[Iterable[Any]], Optimizer]):
        self.changes, self.optimizer = changes, optimizer

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if any(key.startswith("optimizer.") for key in self.changes):
            self._change_optimizer(trainer, pl_module)
        for key, value in self.changes.items():
            group, _, name = key.partition(".")
            option = pl_module.algorithm.options.get(group)
            if option is not None and name in {field.name for field in fields(option)}:  # adaptive ones are restored
                pl_module.algorithm = replace(pl_module.algorithm, **{group: replace(option, **{name: value})})

    def _change_optimizer(self, trainer: L.Trainer, pl_module: Any) -> None:
        """The schedule, in steps, goes on; its factor applies to the new learning rate."""
        scheduler: Any = trainer.lr_scheduler_configs[0].scheduler
        new = self.optimizer(pl_module.trained_weights())
        scheduler.base_lrs = [group["lr"] for group in new.param_groups]
        rates = [
            rate * factor(scheduler.last_epoch)
            for rate, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        scheduler._last_lr = rates
        for group, settings, rate in zip(trainer.optimizers[0].param_groups, new.param_groups, rates, strict=True):
            others = {key: value for key, value in settings.items() if key != "params"}
            group.update(others | {"lr": rate, "initial_lr": settings["lr"]})
