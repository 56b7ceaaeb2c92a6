"""Where a run stands, by its last checkpoint: the first look into a file that may be damaged or come from others."""

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
        hyperparameters: of the run that is to go on; None: it does not go on.

    Raises:
        ConfigError: for a file that is no checkpoint of this version, or not the one that its name and the
            hyperparameters say.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
        history, before = content["history"], content["hyper_parameters"]
    except Exception as error:  # the unpickler raises errors of many kinds
        raise ConfigError(
            f"{checkpoint}: is no checkpoint of this version. Only plain values and tensors are loaded, because "
            f"anything else could run code ({str(error).partition(chr(10))[0]:.200})."
        ) from None
    if steps_done(checkpoint) != history["dapo_steps"]:
        raise ConfigError(
            f"{checkpoint}: holds {history['dapo_steps']} DAPO steps, so it was renamed: name it as it was."
        )
    now = before if hyperparameters is None else hyperparameters
    changed = [key for key in before if key in now and before[key] != now[key] and key not in CHANGED_BY_RESUMING]
    if changed:
        changes = ", ".join(f"{key} was {before[key]} and is {now[key]}" for key in changed[:3])
        raise ConfigError(
            f"{checkpoint.parent.parent / 'config.yaml'} was changed after {checkpoint.name} was saved: {changes}. "
            "Only num_steps and the trainer may be changed, on the command line."
        )
    return history
