"""The rows of a micro-batch as one sequence: each distinct prompt once, each completion once, no padding.

    tokens      [prompt 1, prompt 2, ..., completion 1, completion 2, ...]
    positions   [0 1 2 .., 0 1 2 ..,      S S+1 ..,     S S+1 ..]

A prompt attends to itself, and a completion to its prompt and itself. This is exact, because attention is the only
operation that mixes the tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from dapo_lightning.forward.rows import LONG, MaskedRows, PaddedBlock, WholeRows, attend, attends_whole

MAX_PADDING = 0.25  # share of padding inside attention that is accepted for the sake of fewer, larger calls


class PackedLayout:
    """The layout of B completions, sorted by length, and their prompts.

    Args:
        prompts: B prompts; equal ones are fed once.
        num_tokens: how many tokens of each of the B completions are fed, 0 or more.
        long: see `LONG`.

    Attributes:
        order: for each completion in the sequence, its index among the B given ones.
        prompts: the distinct prompts.
        block: the block of the prompts in the sequence.
        longest: tokens of the longest prompt with a completion.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], num_tokens: Sequence[int], device: torch.device, long: int = LONG
    ):
        rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        self.prompts = list(rows)
        self.block = PaddedBlock(0, [len(prompt) for prompt in self.prompts], device)
        self.order = sorted(range(len(prompts)), key=lambda b: -num_tokens[b])
        self.lengths = [num_tokens[b] for b in self.order]
        self.prompt_of = [rows[tuple(prompts[b])] for b in self.order]
        rows_of = zip(self.prompt_of, self.lengths, strict=True)
        self.longest = max(len(self.prompts[prompt]) + length for prompt, length in rows_of)
        self._completions: list[MaskedRows | WholeRows] = []
        stops = self.last_of_prompts()
        start, first = self.block.stop, 0
        for size in _similar_lengths(self.lengths):
            lengths, prompt_of = (values[first : first + size] for values in (self.lengths, self.prompt_of))
            block = PaddedBlock(start, lengths, device)
            if attends_whole(max(len(self.prompts[prompt]) for prompt in prompt_of), block.width, long):
                ranges = [range(stops[p] + 1 - len(self.prompts[p]), stops[p] + 1) for p in prompt_of]
                self._completions.append(WholeRows.of(block, lengths, ranges, device))
            else:
                self._completions.append(MaskedRows.of(block, self.block, prompt_of, device))
            start, first = block.stop, first + size

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
        prompts = self.block.pad(q), self.block.pad(k), self.block.pad(v)
        out = [self.block.unpad(attend(*prompts, None, scaling))]
        out += [completions.attend((q, k, v), prompts, scaling) for completions in self._completions]
        return torch.cat(out)[None]


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
