"""Reads the progress of a run from its last checkpoint, which may be damaged or come from somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from dapo_lightning.policy.digest import check_same, digest_of
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.step.module import DAPOModule
from dapo_lightning.step.result import History
from dapo_lightning.utils.changes import read_changes
from dapo_lightning.utils.checkpoints import main_file, steps_done

CHANGED_BY_RESUMING = ("num_steps",)
_RESTORED: dict[str, Any] = {
    "state_dict": {},
    "hyper_parameters": {},
    "history": History().state_dict() | {"seconds": {}},
    "algorithm": {},
}
"""What a checkpoint must hold to be evaluated, by example."""


def read_checkpoint(checkpoint: Path, expected: Mapping[str, Any] = _RESTORED) -> dict[str, Any]:
    """Returns the content of a checkpoint. Nothing but plain values and tensors is loaded.

    Args:
        expected: what it must hold, by example.

    Raises:
        ConfigError: if the file is not a checkpoint of this version, or does not match its name.
    """
    try:
        content = torch.load(main_file(checkpoint), map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # the unpickler raises errors of many kinds
        raise ConfigError(
            f"{checkpoint}: is not a checkpoint of this version. Only plain values and tensors are loaded, because "
            f"anything else could run code ({str(error).partition(chr(10))[0]:.200})."
        ) from None
    if (missing := _missing(content, expected)) is not None:
        raise ConfigError(f"{checkpoint}: is not a checkpoint of this version: {missing} is missing or damaged.")
    if steps_done(checkpoint) != (steps := content["history"]["dapo_steps"]):
        raise ConfigError(f"{checkpoint}: contains {steps} DAPO steps, so it was renamed: restore its old name.")
    return content


def read_history(checkpoint: Path, module: DAPOModule, trainer: L.Trainer) -> dict[str, Any]:
    """Returns the history of a run that is about to be continued.

    Raises:
        ConfigError: see `read_checkpoint`; also if the settings have changed since the checkpoint was saved.
        PolicyError: if the policy has changed since the run began.
    """
    of_training = {
        "loops": {"fit_loop": trainer.fit_loop.state_dict()},
        "optimizer_states": [{"state": {}, "param_groups": [{}]}],
        "lr_schedulers": [{"lr_lambdas": []}],
        "callbacks": {},
    }
    content = read_checkpoint(checkpoint, _RESTORED | of_training)
    before, now = content["hyper_parameters"], module.hparams
    known = {*CHANGED_BY_RESUMING, *(change["key"] for change in read_changes(checkpoint.parent.parent))}
    changed = [key for key in before if key in now and before[key] != now[key] and key not in known]
    if changed:
        changes = ", ".join(f"{key} was {before[key]} and is {now[key]}" for key in changed[:3])
        raise ConfigError(
            f"{checkpoint.parent.parent / 'config.yaml'} was changed after {checkpoint.name} was saved: {changes}. "
            "Undo the changes, and make them on the command line with changes=true."
        )
    check_same(content.get("policy", {}), digest_of(module.worker.policy, module.algorithm.kl.needs_reference))
    return content["history"]


def _missing(given: Any, expected: Any, path: str = "") -> str | None:
    """Returns the first key of an example that `given` lacks, or whose value is of another kind; None if there is
    none. Lists may be longer than in the example."""
    kind = int | float if isinstance(expected, int | float) else type(expected)
    if not isinstance(given, kind):
        return path or "everything"
    for key, value in _items(expected).items():
        name = f"{path}.{key}".lstrip(".")
        missing = _missing(_items(given)[key], value, name) if key in _items(given) else name
        if missing is not None:
            return missing
    return None


def _items(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
