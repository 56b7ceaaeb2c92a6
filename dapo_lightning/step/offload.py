"""Keeps the states of an optimizer, such as Adam's moments, in host memory between its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def with_offloaded_states(make: MakeOptimizer) -> MakeOptimizer:
    """Returns a function that makes the same optimizer, whose states are on the device of the weights only while it
    takes a step. Weights and gradients are there at the same time, but activations, caches and an engine are not. The
    values do not change. (Lightning moves states that it has loaded to the device, where they remain until the end of
    the first step.)"""

    def make_offloaded(weights: Iterable[nn.Parameter]) -> Optimizer:
        optimizer = make(weights)

        def fetch(*_: Any) -> None:
            for weight, states in optimizer.state.items():
                _move(states, weight.device)

        def put_away(*_: Any) -> None:
            for states in optimizer.state.values():
                _move(states, "cpu")

        optimizer.register_step_pre_hook(fetch)
        optimizer.register_step_post_hook(put_away)
        optimizer.register_load_state_dict_post_hook(put_away)
        return optimizer

    return make_offloaded


def _move(states: dict[str, Any], device: Any) -> None:
    """Moves the tensors of a weight. Numbers, such as the count of steps, stay where the optimizer expects them."""
    states |= {name: value.to(device) for name, value in states.items() if isinstance(value, Tensor) and value.dim()}
