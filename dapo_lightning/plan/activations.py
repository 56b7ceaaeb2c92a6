"""Activations that a backward pass needs, counted in forward passes that allocate no memory.

Models of one and of two layers run under `FakeTensorMode`, which executes the real code on tensors that have shapes but
no data, and `saved_tensors_hooks` reports every tensor that autograd saves. The second layer stands for all further
ones. This is done for a few small micro-batches; since saved bytes are linear in a handful of counts (tokens, tokens
that completions attend to, entries of the mask), these determine the bytes for any micro-batch.

Assumes that scaled-dot-product attention saves what its flash and memory-efficient kernels save (query, key, value,
output, a sum per row), on GPUs as on the CPU, whose choice is counted here; the mask is a number in the compute type
for each pair of tokens, as torch makes it from a boolean mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from dapo_lightning.forward.layout import SHARED_PROMPT, forward
from dapo_lightning.forward.packed_layout import PackedLayout
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
        """Pairs of tokens that attention computes: full rectangles, as kernels with a mask do."""
        own = self.new_tokens - 1
        return self.num_prompts * self.prompt_tokens**2 + self.num_rows * own * (self.prompt_tokens + own)

    def counts(self) -> list[float]:
        """The counts in which saved bytes are linear."""
        prompts, own = self.num_prompts * self.prompt_tokens, self.num_rows * (self.new_tokens - 1)
        mask = own * (self.prompt_tokens + self.new_tokens - 1)
        return [1.0, prompts, self.num_rows, own, self.num_rows * self.prompt_tokens, mask]


_SMALL = [MicroBatch(1, s, r, t) for s, r, t in ((5, 1, 4), (9, 1, 4), (5, 2, 4), (5, 1, 9), (11, 3, 6), (7, 2, 13))]


@dataclass(frozen=True)
class Saved:
    """Saved bytes per count, within each layer and around the layers, without the logits."""

    layer: tuple[float, ...]
    around: tuple[float, ...]

    def of(self, part: tuple[float, ...], micro_batch: MicroBatch) -> float:
        """Bytes of one part for a micro-batch."""
        return float(np.dot(part, micro_batch.counts()))


@lru_cache
def saved_bytes(text: str, autocast: bool, in_bf16: bool) -> Saved:
    """Counts what a model saves.

    Args:
        text: `as_text` of its configuration.
        autocast: whether it computes in bf16, as with `trainer.precision=bf16-mixed`.
        in_bf16: whether the weights are bf16, as those that FSDP2 gathers with that precision are.

    Raises:
        ValueError: for models whose completions cannot share prompts.
    """
    dtype = torch.bfloat16 if in_bf16 else torch.float32
    one, two = (_saved_by(text, num_layers, dtype, autocast) for num_layers in (1, 2))
    counts = np.array([micro_batch.counts() for micro_batch in _SMALL])
    layer, around = (tuple(np.linalg.solve(counts, part).round(3).tolist()) for part in (two - one, 2 * one - two))
    return Saved(layer, around)


def _saved_by(text: str, num_layers: int, dtype: torch.dtype, autocast: bool) -> np.ndarray:
    """Bytes that a model of so many layers saves for each of the small micro-batches."""
    prompts = [[tuple(range(small.prompt_tokens))] * int(small.num_rows) for small in _SMALL]
    layouts = [  # outside of the mode, since they compute with data
        PackedLayout(prompt, [small.new_tokens - 1] * len(prompt), torch.device("cpu"))
        for prompt, small in zip(prompts, _SMALL, strict=True)
    ]
    positions = [layout.position_ids() for layout in layouts]
    found = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build(text, num_layers, dtype)
        model.set_attn_implementation(SHARED_PROMPT)
        for small, layout, position_ids in zip(_SMALL, layouts, positions, strict=True):
            tokens = torch.zeros(1, int(small.fed), dtype=torch.long)
            keep = torch.zeros(int(small.predicted), dtype=torch.long)
            saved = SavedTensors(model)
            with saved.counted(), torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
                forward(model, tokens, position_ids, layout, keep)
            found.append(saved.num_bytes)
    return np.array(found)


class SavedTensors:
    """Counts what autograd saves, each storage once, without the weights."""

    def __init__(self, model: nn.Module):
        self._known = {weight.untyped_storage()._cdata for weight in model.parameters()}
        self._kept: list[Tensor] = []  # alive, or their addresses could be used again
        self.num_bytes = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts during the block."""
        with saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._kept.append(tensor)
            self.num_bytes += storage.nbytes()
        return tensor
