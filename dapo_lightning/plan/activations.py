"""Activations that a backward pass needs, counted in forward passes without memory.

What autograd saves is asked of autograd itself: the model is built with two layers under `FakeTensorMode`, which runs
the real code on tensors that have shapes but no numbers, and `saved_tensors_hooks` reports every saved tensor. The
second layer counts for all further ones. That is done for a few small micro-batches; saved bytes are linear in a
handful of counts (tokens, tokens that completions attend to, entries of the mask), so these give those of any.

Assumes that scaled-dot-product attention saves what its flash and memory-efficient kernels save (query, key, value,
output, a sum per row), on GPUs as on the CPU whose choice is counted here; the mask is a number per pair of tokens in
the compute type, which is what torch makes of a boolean one.
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
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from dapo_lightning.forward.layout import SHARED_PROMPT, forward
from dapo_lightning.forward.packed import Packed
from dapo_lightning.plan.model import build


@dataclass(frozen=True)
class MicroBatch:
    """Completions of equal length, and their prompts, in one forward pass.

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
        """Pairs of tokens that attention computes: whole rectangles, as kernels with a mask do."""
        own = self.new_tokens - 1
        return self.num_prompts * self.prompt_tokens**2 + self.num_rows * own * (self.prompt_tokens + own)

    def counts(self) -> list[float]:
        """What saved bytes are linear in."""
        prompts, own = self.num_prompts * self.prompt_tokens, self.num_rows * (self.new_tokens - 1)
        mask = own * (self.prompt_tokens + self.new_tokens - 1)
        return [1.0, prompts, self.num_rows, own, self.num_rows * self.prompt_tokens, mask]


_SMALL = [MicroBatch(1, s, r, t) for s, r, t in ((5, 1, 4), (9, 1, 4), (5, 2, 4), (5, 1, 9), (11, 3, 6), (7, 2, 13))]


@dataclass(frozen=True)
class Saved:
    """Bytes that the backward pass needs: those of each layer, those around the layers, and those of a layer's input,
    which is all that is kept of a layer if activations are recomputed. Logits are not among them."""

    layer: tuple[float, ...]
    around: tuple[float, ...]
    input: tuple[float, ...]

    def of(self, part: tuple[float, ...], micro_batch: MicroBatch) -> float:
        return float(np.dot(part, micro_batch.counts()))


@lru_cache
def saved_bytes(text: str, autocast: bool, in_bf16: bool) -> Saved:
    """Of a model, given by `as_text` of its configuration.

    Args:
        autocast: computes in bf16, as `trainer.precision=bf16-mixed` does.
        in_bf16: the weights are bf16 already, as FSDP2's gathered ones are with it.

    Raises:
        ValueError: for models whose layers do not take prompts shared by completions.
    """
    layouts = [_layout(micro_batch) for micro_batch in _SMALL]  # outside: their masks have numbers
    found = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build(text, num_layers=2, dtype=torch.bfloat16 if in_bf16 else torch.float32)
        model.set_attn_implementation(SHARED_PROMPT)
        for micro_batch, (layout, position_ids) in zip(_SMALL, layouts, strict=True):
            found.append(_count(model, micro_batch, layout, position_ids, autocast))
    counts = np.array([micro_batch.counts() for micro_batch in _SMALL])
    layer, around, inputs = (tuple(np.linalg.solve(counts, column).round(3).tolist()) for column in np.array(found).T)
    return Saved(layer, around, inputs)


def _layout(micro_batch: MicroBatch) -> tuple[Packed, Tensor]:
    prompt, rows = tuple(range(micro_batch.prompt_tokens)), int(micro_batch.num_rows)
    layout = Packed([prompt] * rows, [micro_batch.new_tokens - 1] * rows, torch.device("cpu"))
    return layout, layout.position_ids()


def _count(
    model: PreTrainedModel, micro_batch: MicroBatch, layout: Packed, position_ids: Tensor, autocast: bool
) -> tuple[float, float, float]:
    """Bytes saved by the second layer, by all else but the layers, and of a layer's input."""
    saved, of_layers, inputs = SavedTensors(model), [0.0, 0.0], [0.0]
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]

    def before(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        of_layers[layers.index(layer)] -= saved.num_bytes
        inputs[0] = float(args[0].nbytes)

    def after(layer: nn.Module, args: object, output: object) -> None:
        of_layers[layers.index(layer)] += saved.num_bytes

    handles = [layer.register_forward_pre_hook(before) for layer in layers]
    handles += [layer.register_forward_hook(after) for layer in layers]
    tokens = torch.zeros(1, int(micro_batch.fed), dtype=torch.long)
    keep = torch.zeros(int(micro_batch.predicted), dtype=torch.long)
    with saved.counted(), torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
        forward(model, tokens, position_ids, layout, keep)
    for handle in handles:
        handle.remove()
    return of_layers[1], saved.num_bytes - 2 * of_layers[1], inputs[0]


class SavedTensors:
    """Counts what autograd saves, each memory once; weights are there anyway."""

    def __init__(self, model: nn.Module):
        self._known = {weight.untyped_storage()._cdata for weight in model.parameters()}
        self._kept: list[Tensor] = []  # or their addresses could be given away again
        self.num_bytes = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        with saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._kept.append(tensor)
            self.num_bytes += storage.nbytes()
        return tensor
