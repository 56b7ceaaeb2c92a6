"""The rows of a micro-batch as one sequence: each distinct prompt once, each completion once, no padding.

    tokens      [prompt 1, prompt 2, ..., completion 1, completion 2, ...]
    positions   [0 1 2 .., 0 1 2 ..,      S S+1 ..,     S S+1 ..]

A prompt attends to itself, and a completion to its prompt and itself. This is exact, because attention is the only
operation that mixes the tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_PADDING = 0.25  # share of padding inside attention that is accepted for the sake of fewer, larger calls


class PaddedBlock:
    """R consecutive rows of a sequence of N tokens, starting at `start`, and their padded form.

    Attributes:
        stop: position of the first token after them.
        mask_RL: True where the padded form holds a token.
    """

    def __init__(self, start: int, lengths: Sequence[int], device: torch.device):
        self.start, self.stop, self.num_rows, self.width = start, start + sum(lengths), len(lengths), max(lengths)
        self.mask_RL = torch.arange(self.width, device=device) < torch.tensor(lengths, device=device)[:, None]
        self._places = self.mask_RL.flatten().nonzero().squeeze(1)

    def pad(self, sequence: Tensor) -> Tensor:
        """[N, ...] -> [R, L, ...], with 0 as padding."""
        tokens = sequence[self.start : self.stop]
        padded = tokens.new_zeros(self.num_rows * self.width, *tokens.shape[1:])
        return padded.index_copy(0, self._places, tokens).unflatten(0, (self.num_rows, self.width))

    def unpad(self, padded: Tensor) -> Tensor:
        """[R, L, ...] -> [stop - start, ...]."""
        return padded.flatten(0, 1).index_select(0, self._places)


@dataclass(frozen=True)
class CompletionBlock:
    """Completions of similar length, which attend in one call.

    Args:
        prompt_R: for each completion, the row of its prompt in the block of prompts.
        mask: [R, 1, L, S + L], True where a completion token sees a token of its prompt or of its own completion.
    """

    padded: PaddedBlock
    prompt_R: Tensor
    mask: Tensor


class PackedLayout:
    """The layout of B completions, sorted by length, and their prompts.

    Args:
        prompts: B prompts; equal ones are fed once.
        num_tokens: how many tokens of each of the B completions are fed, 0 or more.

    Attributes:
        order: for each completion in the sequence, its index among the B given ones.
        prompts: the distinct prompts.
        block: the block of the prompts in the sequence.
        longest: tokens of the longest prompt with a completion.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], num_tokens: Sequence[int], device: torch.device):
        rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        self.prompts = list(rows)
        self.block = PaddedBlock(0, [len(prompt) for prompt in self.prompts], device)
        self.order = sorted(range(len(prompts)), key=lambda b: -num_tokens[b])
        self.lengths = [num_tokens[b] for b in self.order]
        self.prompt_of = [rows[tuple(prompts[b])] for b in self.order]
        rows_of = zip(self.prompt_of, self.lengths, strict=True)
        self.longest = max(len(self.prompts[prompt]) + length for prompt, length in rows_of)
        self._completions: list[CompletionBlock] = []
        start, first = self.block.stop, 0
        for size in _similar_lengths(self.lengths):
            part = slice(first, first + size)
            block = PaddedBlock(start, self.lengths[part], device)
            prompt_R = torch.tensor(self.prompt_of[part], device=device)
            self._completions.append(CompletionBlock(block, prompt_R, self._visible(block, prompt_R)))
            start, first = block.stop, first + size

    def _visible(self, block: PaddedBlock, prompt_R: Tensor) -> Tensor:
        size = (block.num_rows, block.width)
        prompt = self.block.mask_RL[prompt_R][:, None].expand(*size, -1)
        itself = torch.ones(block.width, block.width, dtype=torch.bool, device=prompt_R.device).tril()
        return torch.cat([prompt, itself.expand(*size, -1)], dim=2)[:, None]

    def position_ids(self) -> Tensor:
        """[1, N]."""
        of_prompts = [torch.arange(len(prompt)) for prompt in self.prompts]
        starts = [len(self.prompts[prompt]) for prompt in self.prompt_of]
        of_completions = [start + torch.arange(n) for start, n in zip(starts, self.lengths, strict=True)]
        return torch.cat([*of_prompts, *of_completions])[None]

    def last_of_prompts(self) -> list[int]:
        """Positions in the sequence of the last token of each prompt, which predicts the first token of completions."""
        return [stop - 1 for stop in accumulate(len(prompt) for prompt in self.prompts)]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See `Layout`: [1, H, N, D], [1, K, N, D], [1, K, N, D] -> [1, N, H, D]."""
        q, k, v = (heads[0].transpose(0, 1) for heads in (query, key, value))
        prompt_k, prompt_v = self.block.pad(k), self.block.pad(v)
        out = [self.block.unpad(_attend(self.block.pad(q), prompt_k, prompt_v, None, scaling))]
        for part in self._completions:
            keys = torch.cat([prompt_k[part.prompt_R], part.padded.pad(k)], dim=1)
            values = torch.cat([prompt_v[part.prompt_R], part.padded.pad(v)], dim=1)
            out.append(part.padded.unpad(_attend(part.padded.pad(q), keys, values, part.mask, scaling)))
        return torch.cat(out)[None]


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """[R, L, H, D], [R, M, K, D], [R, M, K, D] -> [R, L, H, D]; causal without a mask, as padding comes last."""
    repeats = query.shape[2] // key.shape[2]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=2), value.repeat_interleave(repeats, dim=2)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling)
    return out.transpose(1, 2)


def _similar_lengths(lengths: Sequence[int]) -> list[int]:
    """Sizes of the parts into which descending lengths are cut so that little is padded; lengths of 0 are left out."""
    sizes: list[int] = []
    longest = 0
    for length in lengths:
        if length == 0:
            break
        if sizes and length >= (1 - MAX_PADDING) * longest:
            sizes[-1] += 1
        else:
            sizes.append(1)
            longest = length
    return sizes
