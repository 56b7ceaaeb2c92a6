"""Batched decoding: each prompt is read once for its G completions, and finished rows leave the batch.

In a conversation, a row whose turn has ended reads the reply token by token, while the other rows go on writing. Every
row of the batch thus feeds one token at each step, and its cache already holds the earlier turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dapo_lightning.forward.ways import ways_of
from dapo_lightning.rollout import Memory, Partner
from dapo_lightning.rollout.cache import read_prompts
from dapo_lightning.rollout.conversing import Conversing
from dapo_lightning.rollout.sample import sample_tokens
from dapo_lightning.rollout.weights import prepared_weights
from dapo_lightning.types import Completion, Generation

_COMPACT_BELOW = 0.95  # share of rows still alive at which finished rows leave the batch


@dataclass(frozen=True)
class Decode:
    """The default rollout.

    Log-probs and entropies are recorded while sampling, from the same logits, without a further forward pass.

    Args:
        max_rows: completions decoded at once, at least those of one prompt; bounds the memory of the KV cache.
        dtype: "bfloat16" decodes under autocast, whatever the precision of the update; None decodes in the precision of
            the update.
    """

    max_rows: int = 512
    dtype: str | None = None
    exact_logps: ClassVar[bool] = True
    memory: ClassVar[Memory] = Memory.DECODE
    converses: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise ValueError(f"rollout.max_rows={self.max_rows}: at least one row must be decoded at a time.")
        if self.dtype not in (None, "bfloat16"):
            raise ValueError(f"rollout.dtype={self.dtype}: must be bfloat16, or null for the precision of the update.")

    @torch.no_grad()
    def __call__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        noise_PGT: Tensor,
        generation: Generation,
        end_tokens: Sequence[int],
        partner: Partner | None = None,
    ) -> Iterator[list[tuple[Completion, ...]]]:
        """P tokenised prompts and their noise -> the G completions of each prompt, `max_rows` rows at a time."""
        num_completions = noise_PGT.shape[1]
        at_once = max(1, self.max_rows // num_completions) if ways_of(model).pads_prompts else 1
        for start in range(0, len(prompts), at_once):
            part = slice(start, start + at_once)
            with self._precision(model.device), prepared_weights(model):
                first_row = start * num_completions
                rows = _decode(model, prompts[part], noise_PGT[part], generation, end_tokens, partner, first_row)
            yield [tuple(rows[i : i + num_completions]) for i in range(0, len(rows), num_completions)]

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        return nullcontext() if self.dtype is None else torch.autocast(device.type, torch.bfloat16)


def _decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    noise_PGT: Tensor,
    generation: Generation,
    end_tokens: Sequence[int],
    partner: Partner | None,
    first_row: int,
) -> list[Completion]:
    """The B = P * G completions, in the order of the prompts. The partner knows row 0 as `first_row`."""
    device = model.get_input_embeddings().weight.device
    num_completions = noise_PGT.shape[1]
    noise_BT = noise_PGT.flatten(0, 1).to(device)
    ends = torch.tensor(list(end_tokens), device=device)
    talks = Conversing(noise_BT, ends, generation.stop, partner, first_row)

    cache, logits_BV = read_prompts(model, prompts, num_completions, device)
    rows_B = torch.arange(noise_BT.shape[0], device=device)  # where each row of the batch is recorded
    alive_B = torch.ones_like(rows_B, dtype=torch.bool)
    while True:
        sampled = sample_tokens(
            logits_BV,
            talks.noise(rows_B),
            generation.temperature,
            generation.top_p,
            generation.top_k,
            generation.min_p,
        )
        tokens_B, alive_B = talks.step(rows_B, alive_B, *sampled)
        num_alive = int(alive_B.sum())
        if num_alive == 0:
            return talks.completions()
        if num_alive <= _COMPACT_BELOW * len(rows_B):
            keep = _survivors(alive_B, num_alive)
            cache.keep(keep)
            rows_B, tokens_B, alive_B = rows_B[keep], tokens_B[keep], alive_B[keep]
        logits_BV = cache.step(tokens_B)


def _survivors(alive_B: Tensor, num_alive: int) -> Tensor:
    """The rows alive. Most stay where they are; the last ones move to the places of rows that have ended."""
    keep = torch.arange(num_alive, device=alive_B.device)
    free = (~alive_B[:num_alive]).nonzero().squeeze(1)
    keep[free] = num_alive + alive_B[num_alive:].nonzero().squeeze(1)
    return keep
