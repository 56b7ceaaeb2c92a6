"""How the rows of a `PackedLayout` attend.

Short completions see their prompts through a mask. The mask of a long one would need more memory than everything else,
because it grows with the square of the length. Long completions therefore attend in rows that begin with their prompts,
where causal attention needs no mask; the attention of the prompt is then repeated in each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Heads = tuple[Tensor, Tensor, Tensor]  # query, key, value

LONG = 1024  # tokens from which a completion attends in a row that begins with its prompt
LONGER_PROMPT = 4  # unless the prompt is this many times as long; then a mask costs less than repeating the prompt
SHORT = 128  # tokens below which CPUs compute the gradients of bf16 attention slower than those of float32


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
class MaskedRows:
    """Completions of similar length, which attend in one call to their prompts and themselves.

    Args:
        prompt_R: for each completion, the row of its prompt in the block of prompts.
        mask: [R, 1, L, S + L], True where a completion token sees a token of its prompt or of its own completion.
    """

    padded: PaddedBlock
    prompt_R: Tensor
    mask: Tensor

    @staticmethod
    def of(padded: PaddedBlock, prompts: PaddedBlock, prompt_of: Sequence[int], device: torch.device) -> MaskedRows:
        prompt_R, size = torch.tensor(prompt_of, device=device), (padded.num_rows, padded.width)
        prompt = prompts.mask_RL[prompt_R][:, None].expand(*size, -1)
        itself = torch.ones(padded.width, padded.width, dtype=torch.bool, device=device).tril()
        return MaskedRows(padded, prompt_R, torch.cat([prompt, itself.expand(*size, -1)], dim=2)[:, None])

    def attend(self, sequence: Heads, prompts: Heads, scaling: float) -> Tensor:
        """Heads of the sequence, [N, H or K, D], and of the padded prompts -> [tokens of the completions, H, D]."""
        q, k, v = map(self.padded.pad, sequence)
        _, prompt_k, prompt_v = prompts
        keys = torch.cat([prompt_k[self.prompt_R], k], dim=1)
        values = torch.cat([prompt_v[self.prompt_R], v], dim=1)
        return self.padded.unpad(attend(q, keys, values, self.mask, scaling))


@dataclass(frozen=True)
class WholeRows:
    """Long completions of similar length, which attend in one call, each in a row that begins with its prompt.

    Args:
        places_RW: for each token of the rows, its position in the sequence; any position for padding on the right.
        own: positions of the completions' tokens among those of the rows, [tokens of the completions].
    """

    places_RW: Tensor
    own: Tensor

    @staticmethod
    def of(padded: PaddedBlock, lengths: Sequence[int], prompts: Sequence[range], device: torch.device) -> WholeRows:
        starts = accumulate(lengths[:-1], initial=padded.start)
        rows = [
            torch.tensor([*prompt, *range(start, start + length)])
            for prompt, start, length in zip(prompts, starts, lengths, strict=True)
        ]
        places_RW = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
        own = [
            row * places_RW.shape[1] + len(prompt) + torch.arange(length)
            for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
        ]
        return WholeRows(places_RW, torch.cat(own).to(device))

    def attend(self, sequence: Heads, prompts: Heads, scaling: float) -> Tensor:
        """See `MaskedRows`."""
        q, k, v = (x.index_select(0, self.places_RW.flatten()).unflatten(0, self.places_RW.shape) for x in sequence)
        return attend(q, k, v, None, scaling).flatten(0, 1).index_select(0, self.own)


def attends_whole(prompt_tokens: int, num_tokens: int, long: int = LONG) -> bool:
    """Whether completions attend in rows that begin with their prompts, given the longest prompt and completion."""
    return num_tokens >= long and prompt_tokens <= LONGER_PROMPT * num_tokens


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """[R, L, H, D], [R, M, K, D], [R, M, K, D] -> [R, L, H, D]; causal without a mask, as padding comes last."""
    repeats = query.shape[2] // key.shape[2]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=2), value.repeat_interleave(repeats, dim=2)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    attention = partial(F.scaled_dot_product_attention, attn_mask=mask, is_causal=mask is None, scale=scaling)
    if q.is_cpu and q.requires_grad and q.shape[2] < SHORT:
        with torch.autocast("cpu", enabled=False):
            out = attention(q.float(), k.float(), v.float()).to(v.dtype)
    else:
        out = attention(q, k, v)
    return out.transpose(1, 2)
