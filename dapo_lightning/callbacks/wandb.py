"""Weights & Biases for a run that may be resumed."""

from __future__ import annotations

from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only


class WeightsAndBiases(WandbLogger):
    """Lightning's WandbLogger, which ends its run with that of the training, so that the next one of a sweep begins
    another.

    Args:
        folder: the folder of the run; wandb writes to `wandb/` in it.
        id: of the run in the service. A later session with the same id continues the run.
        offline: whether everything stays in the folder, until `wandb sync` uploads it.
        options: further arguments of `wandb.init`, for example `entity`, `tags` and `notes`.
    """

    def __init__(self, folder: str, project: str, name: str, group: str, id: str, offline: bool = True, **options: Any):
        mode = "offline" if offline else "online"  # Lightning's `offline` would change the environment of later runs
        settings = wandb.Settings(symlink=False)  # a run folder with links would not be resumed
        super().__init__(
            save_dir=folder, project=project, name=name, group=group, id=id, mode=mode, settings=settings, **options
        )

    @rank_zero_only
    def close(self, is_finished: bool) -> None:
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if is_finished else 1)
            self._experiment = None
