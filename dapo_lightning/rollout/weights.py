"""Weights in the form that decoding reads fastest, for as long as a rollout lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def prepared_weights(model: PreTrainedModel) -> Iterator[None]:
    """Prepares once, for the block, what would be prepared anew at every token, as weights do not change in it.

    Under autocast weights are cast to its type once. On a CPU, linear layers moreover get their weights in the blocks
    that oneDNN computes with: torch would hand them to MKL, which arranges them anew at each call, and for the few rows
    of a decoding step that is half of the work or more. Costs the memory of a copy of the weights.
    """
    device_type = model.device.type
    casts = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type) if casts else model.dtype
    with ExitStack() as stack:
        if casts:
            stack.callback(torch.clear_autocast_cache)  # or it would last as long as Lightning's autocast around us
            stack.enter_context(torch.autocast(device_type, dtype, cache_enabled=True))
        if device_type == "cpu" and torch.backends.mkldnn.is_available():
            for layer in model.modules():
                if type(layer) is nn.Linear and type(layer.weight.data) is Tensor:  # neither quantised nor sharded
                    layer.__dict__["forward"] = _with_blocked_weight(layer, dtype)
                    stack.callback(layer.__dict__.pop, "forward")
        yield


def _with_blocked_weight(layer: nn.Linear, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype), None)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)

    def forward(x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.to(dtype), weight, bias, "none", [], "")

    return forward
