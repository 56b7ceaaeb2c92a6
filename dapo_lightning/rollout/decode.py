"""Batched decoding: each prompt is read once for its G completions, and finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dapo_lightning.forward.ways import ways_of
from dapo_lightning.rollout import Memory
from dapo_lightning.rollout.cache import read_prompts
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
    """

    max_rows: int = 512
    exact_logps: ClassVar[bool] = True
    memory: ClassVar[Memory] = Memory.DECODE

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise ValueError(f"rollout.max_rows={self.max_rows}: at least one row must be decoded at a time.")

    @torch.no_grad()
    def __call__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        noise_PGT: Tensor,
        generation: Generation,
        end_tokens: Sequence[int],
    ) -> Iterator[list[tuple[Completion, ...]]]:
        """P tokenised prompts and their noise -> the G completions of each prompt, `max_rows` rows at a time."""
        num_completions = noise_PGT.shape[1]
        at_once = max(1, self.max_rows // num_completions) if ways_of(model).pads_prompts else 1
        for start in range(0, len(prompts), at_once):
            part = slice(start, start + at_once)
            with prepared_weights(model):
                rows = _decode(model, prompts[part], noise_PGT[part], generation, end_tokens)
            yield [tuple(rows[i : i + num_completions]) for i in range(0, len(rows), num_completions)]


def _decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    noise_PGT: Tensor,
    generation: Generation,
    end_tokens: Sequence[int],
) -> list[Completion]:
    """The B = P * G completions, in the order of the prompts."""
    device = model.get_input_embeddings().weight.device
    num_completions, max_tokens = noise_PGT.shape[1:]
    noise_BT = noise_PGT.flatten(0, 1).to(device)
    ends = torch.tensor(list(end_tokens), device=device)
    out = _Recorder(noise_BT.shape[0], max_tokens, device)

    cache, logits_BV = read_prompts(model, prompts, num_completions, device)
    rows_B = torch.arange(noise_BT.shape[0], device=device)  # where each row of the batch is recorded
    alive_B = torch.ones_like(rows_B, dtype=torch.bool)
    for step in range(max_tokens):
        tokens_B, logps_B, entropies_B = sample_tokens(
            logits_BV, noise_BT[rows_B, step], generation.temperature, generation.top_p
        )
        out.record(step, rows_B[alive_B], tokens_B[alive_B], logps_B[alive_B], entropies_B[alive_B])
        alive_B &= logps_B.isfinite() & ~torch.isin(tokens_B, ends)  # the worker reports values that are not finite
        num_alive = int(alive_B.sum())
        if num_alive == 0 or step == max_tokens - 1:
            break
        if num_alive <= _COMPACT_BELOW * len(rows_B):
            keep = _survivors(alive_B, num_alive)
            cache.keep(keep)
            rows_B, tokens_B, alive_B = rows_B[keep], tokens_B[keep], alive_B[keep]
        logits_BV = cache.step(tokens_B)
    out.truncated_B[rows_B[alive_B]] = True
    return out.completions()


def _survivors(alive_B: Tensor, num_alive: int) -> Tensor:
    """The rows alive. Most stay where they are; the last ones move to the places of rows that have ended."""
    keep = torch.arange(num_alive, device=alive_B.device)
    free = (~alive_B[:num_alive]).nonzero().squeeze(1)
    keep[free] = num_alive + alive_B[num_alive:].nonzero().squeeze(1)
    return keep


class _Recorder:
    """The sampled tokens with their log-probs and entropies, [B, T], filled column by column."""

    def __init__(self, num_rows: int, max_tokens: int, device: torch.device):
        self.tokens_BT = torch.zeros(num_rows, max_tokens, dtype=torch.long, device=device)
        self.logps_BT = torch.zeros(num_rows, max_tokens, device=device)
        self.entropies_BT = torch.zeros(num_rows, max_tokens, device=device)
        self.num_tokens_B = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.truncated_B = torch.zeros(num_rows, dtype=torch.bool, device=device)

    def record(self, step: int, rows: Tensor, tokens: Tensor, logps: Tensor, entropies: Tensor) -> None:
        self.tokens_BT[rows, step] = tokens
        self.logps_BT[rows, step] = logps
        self.entropies_BT[rows, step] = entropies
        self.num_tokens_B[rows] = step + 1

    def completions(self) -> list[Completion]:
        tokens_BT, logps_BT, entropies_BT = self.tokens_BT.cpu(), self.logps_BT.cpu(), self.entropies_BT.cpu()
        ends = zip(self.num_tokens_B.tolist(), self.truncated_B.tolist(), strict=True)
        return [
            Completion(tokens_BT[row, :n].clone(), logps_BT[row, :n].clone(), entropies_BT[row, :n].clone(), truncated)
            for row, (n, truncated) in enumerate(ends)
        ]
