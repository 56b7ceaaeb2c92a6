"""Weights in the form that decoding reads fastest, for the duration of a rollout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


@contextmanager
def prepared_weights(model: PreTrainedModel) -> Iterator[None]:
    """Prepares the weights once for the block, in which they do not change, rather than at every token.

    Under autocast, they are cast to its dtype once. On a CPU, linear layers also receive their weights in the memory
    layout that oneDNN computes with: torch would otherwise call MKL, which rearranges them at each call, at least half
    of the work for the few rows of a decoding step. This takes the memory of one copy of the weights.
    """
    device_type = model.device.type
    casts = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type) if casts else model.dtype
    with ExitStack() as stack:
        if casts:
            stack.callback(torch.clear_autocast_cache)  # otherwise it lives as long as the autocast of Lightning
            stack.enter_context(torch.autocast(device_type, dtype, cache_enabled=True))
        if device_type == "cpu" and torch.backends.mkldnn.is_available():
            for layer in model.modules():
                # Conv1D is GPT-2's linear layer, with a transposed weight. Quantised and sharded layers are left alone.
                if type(layer) in (nn.Linear, Conv1D) and type(layer.weight.data) is Tensor:
                    layer.__dict__["forward"] = _with_blocked_weight(layer, dtype)
                    stack.callback(layer.__dict__.pop, "forward")
        yield


def _with_blocked_weight(layer: nn.Linear | Conv1D, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    # Only these operators, which torch.compile uses, take such a weight. If they vanish, decoding on a CPU raises.
    plain = layer.weight.detach().to(dtype)
    weight = torch.ops.mkldnn._reorder_linear_weight(plain.T.contiguous() if isinstance(layer, Conv1D) else plain, None)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)

    def forward(x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.to(dtype), weight, bias, "none", [], "")

    return forward
