"""The weights of checkpoints: those that are trained, all of them finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor


class WeightsError(ValueError):
    """The weights of a checkpoint cannot be used."""


def without_frozen(state: Mapping[str, Any], module: nn.Module) -> dict[str, Any]:
    """Returns a state dict of `module` without its frozen weights, which are loaded with the policy."""
    weights = module.named_parameters(remove_duplicate=False)  # tied weights have two names
    frozen = {name for name, weight in weights if not weight.requires_grad}
    return {name: value for name, value in state.items() if name not in frozen}


def not_finite(state: Mapping[str, Any]) -> str | None:
    """Returns the name of a tensor with a value that is NaN or infinite, or None. Of a sharded tensor, only the part of
    this rank is looked at."""
    for name, value in state.items():
        part = value.to_local() if isinstance(value, DTensor) else value
        if not torch.isfinite(part).all():
            return name
    return None


def check_weights(checkpoint: Mapping[str, Any], module: nn.Module) -> None:
    """Checks that a checkpoint holds exactly the trained weights of `module`, and finite ones. (Without frozen weights,
    Lightning does not load strictly. A strategy that shards has loaded the weights already, and has removed them from
    the checkpoint.)

    Raises:
        WeightsError: naming a weight that only one of them has or that has another shape, or one that is not finite.
    """
    state = checkpoint.get("state_dict")
    if state is not None:
        trained = without_frozen(module.state_dict(), module)
        ours, theirs = ({n: getattr(w, "shape", None) for n, w in weights.items()} for weights in (trained, state))
        different = {name for name in ours | theirs if ours.get(name) != theirs.get(name)}
        if different:
            raise WeightsError(
                f"the checkpoint holds other weights than this configuration of the policy trains (for example "
                f"{min(different)}): use the policy.* settings of the run that saved it."
            )
    if state is None or any(weight.is_meta for weight in state.values()):  # loaded already, into shards
        state = module.state_dict()
    name = not_finite(state)
    if name is not None:
        raise WeightsError(
            f"the weights of the checkpoint are not finite ({name}), so they are no policy. Use an earlier checkpoint, "
            "or start again with a lower optimizer.lr."
        )
