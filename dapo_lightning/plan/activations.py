"""Activations that a backward pass needs, counted in forward passes that allocate no memory.

Models of one and of two layers run under `FakeTensorMode`, which executes the real code on tensors that have shapes but
no data, and `saved_tensors_hooks` reports every tensor that autograd saves. The second layer stands for all further
ones. This is done for a few small micro-batches; since saved bytes are linear in a handful of counts (tokens, tokens
that completions attend to, entries of the mask), these determine the bytes for any micro-batch. One of the small ones
attends without a mask, as long completions do.

Assumes that scaled-dot-product attention saves what its flash and memory-efficient kernels save (query, key, value,
output, a sum per row), on GPUs as on the CPU, whose choice is counted here; the mask is a number in the compute type
for each pair of tokens, as torch makes it from a boolean mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from dapo_lightning.forward.layout import SHARED_PROMPT, forward
from dapo_lightning.forward.packed_layout import PackedLayout
from dapo_lightning.forward.rows import LONG, attends_whole
from dapo_lightning.plan.model import build


@dataclass(frozen=True)
class MicroBatch:
    """Completions of equal length and their prompts in one forward pass.

    Counts may be fractions: a budget of tokens is filled by completions of all lengths.
    """

    num_prompts: float
    prompt_tokens: int
    num_rows: float
    new_tokens: int

    @property
    def fed(self) -> float:
        """Tokens that the model reads: each prompt once; nothing is predicted from a completion's last token."""
        return self.num_prompts * self.prompt_tokens + self.num_rows * (self.new_tokens - 1)

    @property
    def predicted(self) -> float:
        """Tokens whose logits are needed."""
        return self.num_rows * self.new_tokens

    @property
    def pairs(self) -> float:
        """Pairs of tokens that attention computes: full rectangles, as kernels with a mask do; for long completions,
        the triangle of the row, as causal kernels without a mask do."""
        own = self.new_tokens - 1
        whole = attends_whole(self.prompt_tokens, own)
        of_row = (self.prompt_tokens + own) ** 2 / 2 if whole else own * (self.prompt_tokens + own)
        return self.num_prompts * self.prompt_tokens**2 + self.num_rows * of_row

    def counts(self, long: int = LONG) -> list[float]:
        """The counts in which saved bytes are linear.

        Args:
            long: see `dapo_lightning.forward.rows.LONG`.
        """
        own, whole = self.new_tokens - 1, attends_whole(self.prompt_tokens, self.new_tokens - 1, long)
        prompts, read = self.num_prompts * self.prompt_tokens, self.num_rows * self.prompt_tokens
        mask = self.num_rows * own * (self.prompt_tokens + own)
        always = [1.0, prompts, self.num_rows, self.num_rows * own]
        return [*always, 0.0, 0.0, read] if whole else [*always, read, mask, 0.0]


_SMALL = [MicroBatch(1, s, r, t) for s, r, t in ((5, 1, 4), (9, 1, 4), (5, 2, 4), (5, 1, 9), (11, 3, 6), (7, 2, 13))]
_LIMITS = [LONG] * len(_SMALL) + [1]  # the last micro-batch occurs twice, the second time as a long one
_SMALL.append(_SMALL[-1])


@lru_cache
def saved_bytes(text: str, autocast: bool, in_bf16: bool) -> np.ndarray:
    """Returns the bytes that a model saves per count of `MicroBatch.counts`, without the logits; shape [2, 7]: within
    each layer, and around the layers.

    Args:
        text: `as_text` of its configuration.
        autocast: whether it computes in bf16, as with `trainer.precision=bf16-mixed`.
        in_bf16: whether the weights are bf16, as those that FSDP2 gathers with that precision are.

    Raises:
        ValueError: for models whose completions cannot share prompts.
    """
    dtype = torch.bfloat16 if in_bf16 else torch.float32
    one, two = (_saved_by(text, num_layers, dtype, autocast) for num_layers in (1, 2))
    counts = np.array([small.counts(long) for small, long in zip(_SMALL, _LIMITS, strict=True)])
    return np.linalg.solve(counts, np.stack([two - one, 2 * one - two], axis=1)).round(3).T


def _saved_by(text: str, num_layers: int, dtype: torch.dtype, autocast: bool) -> np.ndarray:
    """Bytes that a model with this number of layers saves for each of the small micro-batches."""
    layouts = []  # made outside of the mode, because they compute with data
    for small, long in zip(_SMALL, _LIMITS, strict=True):
        prompts = [tuple(range(small.prompt_tokens))] * int(small.num_rows)
        layout = PackedLayout(prompts, [small.new_tokens - 1] * len(prompts), torch.device("cpu"), long)
        layouts.append((layout, layout.position_ids()))
    found = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build(text, num_layers, dtype)
        model.set_attn_implementation(SHARED_PROMPT)
        for small, (layout, position_ids) in zip(_SMALL, layouts, strict=True):
            tokens = torch.zeros(1, int(small.fed), dtype=torch.long)
            keep = torch.zeros(int(small.predicted), dtype=torch.long)
            saved = SavedTensors(model)
            with saved, torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
                forward(model, tokens, position_ids, layout, keep)
            found.append(saved.num_bytes)
    return np.array(found)


class SavedTensors(saved_tensors_hooks):
    """Counts the bytes that autograd saves in a `with` block: each storage once, without the weights."""

    def __init__(self, model: nn.Module):
        super().__init__(self._count, lambda tensor: tensor)
        self._known = {weight.untyped_storage()._cdata for weight in model.parameters()}
        self._kept: list[Tensor] = []  # alive, or their addresses could be used again
        self.num_bytes = 0.0

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._kept.append(tensor)
            self.num_bytes += storage.nbytes()
        return tensor
