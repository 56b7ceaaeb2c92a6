"""Reads the progress of a run from its last checkpoint, which may be damaged or come from somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dapo_lightning.run.errors import ConfigError
from dapo_lightning.utils.checkpoints import steps_done

CHANGED_BY_RESUMING = ("num_steps",)


def read_history(checkpoint: Path, hyperparameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the history in a checkpoint. Nothing but plain values and tensors is loaded.

    Args:
        hyperparameters: hyperparameters of the run to continue; None: the run is not continued.

    Raises:
        ConfigError: if the file is not a checkpoint of this version, or does not match its name or the hyperparameters.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
        history, before = content["history"], content["hyper_parameters"]
    except Exception as error:  # the unpickler raises errors of many kinds
        raise ConfigError(
            f"{checkpoint}: is not a checkpoint of this version. Only plain values and tensors are loaded, because "
            f"anything else could run code ({str(error).partition(chr(10))[0]:.200})."
        ) from None
    if steps_done(checkpoint) != history["dapo_steps"]:
        raise ConfigError(
            f"{checkpoint}: contains {history['dapo_steps']} DAPO steps, so it was renamed: restore its old name."
        )
    now = before if hyperparameters is None else hyperparameters
    changed = [key for key in before if key in now and before[key] != now[key] and key not in CHANGED_BY_RESUMING]
    if changed:
        changes = ", ".join(f"{key} was {before[key]} and is {now[key]}" for key in changed[:3])
        raise ConfigError(
            f"{checkpoint.parent.parent / 'config.yaml'} was changed after {checkpoint.name} was saved: {changes}. "
            "Undo the changes. Only num_steps and the trainer may be changed, and only on the command line."
        )
    return history
