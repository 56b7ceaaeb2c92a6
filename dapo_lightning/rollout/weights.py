"""Weights in the form that decoding reads fastest, for the duration of a rollout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

SMALL = 2**19  # numbers of a weight that stays in the second cache of a core, 2 MB in float32


@contextmanager
def prepared_weights(model: PreTrainedModel) -> Iterator[None]:
    """Prepares the weights once for the block, in which they do not change, rather than at every token.

    Under autocast, they are cast to its dtype once. On a CPU, linear layers also receive their weights in the memory
    layout that is fastest for the few rows of a decoding step: torch would otherwise call MKL, which rearranges them at
    each call. This takes the memory of one copy of the weights.
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
                    layer.__dict__["forward"] = _prepared(layer, dtype)
                    stack.callback(layer.__dict__.pop, "forward")
        yield


def _prepared(layer: nn.Linear | Conv1D, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The layer's forward pass with a copy of its weight: transposed for MKL, which is faster while float32 weights fit
    into a core's cache, or in the blocks of oneDNN. `python -m benchmarks.linear` compares them."""
    weight_OI = (layer.weight.detach().T if isinstance(layer, Conv1D) else layer.weight.detach()).to(dtype)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    is_small = dtype == torch.float32 and weight_OI.numel() <= SMALL
    return (transposed if is_small else blocked)(weight_OI, bias)


def transposed(weight_OI: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The linear map with a copy of its weight whose outputs are consecutive."""
    copy_OI = weight_OI.T.contiguous().T
    return lambda x: F.linear(x, copy_OI, bias)


def blocked(weight_OI: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The linear map with a copy of its weight in oneDNN's blocks. Its input is converted to the weight's dtype."""
    # Only these operators, which torch.compile uses, take such a weight. If they vanish, decoding on a CPU raises.
    dtype, copy = weight_OI.dtype, torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), None)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x.to(dtype), copy, bias, "none", [], "")
