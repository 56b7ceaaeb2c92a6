"""Selects the weights that a checkpoint holds: those that are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def without_frozen(state: Mapping[str, Any], module: nn.Module) -> dict[str, Any]:
    """Returns a state dict of `module` without its frozen weights, which are loaded with the policy."""
    weights = module.named_parameters(remove_duplicate=False)  # tied weights have two names
    frozen = {name for name, weight in weights if not weight.requires_grad}
    return {name: value for name, value in state.items() if name not in frozen}


def check_same_weights(checkpoint: Mapping[str, Any], module: nn.Module) -> None:
    """Checks that a checkpoint holds exactly the trained weights of `module`. Lightning does not check it, because
    the frozen weights are missing. A sharding strategy has loaded the weights already and has removed them from the
    checkpoint.

    Raises:
        ValueError: naming a weight that only one of them has.
    """
    if "state_dict" not in checkpoint:
        return
    different = without_frozen(module.state_dict(), module).keys() ^ checkpoint["state_dict"].keys()
    if different:
        raise ValueError(
            f"the checkpoint holds other weights than this configuration of the policy trains (for example "
            f"{min(different)}): use the policy.* settings of the run that saved it."
        )
