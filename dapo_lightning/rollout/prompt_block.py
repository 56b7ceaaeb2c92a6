"""Keys and values of prompts, each of which is stored and read once for all its completions.

The prompts of a block are padded to the longest, and to as many rows as the one with the most has. A batch with prompts
of very different lengths, or with very different numbers of rows, is therefore divided into several blocks. The rest of
a completion that goes on, for example, follows on a "prompt" that is long and has one row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WASTE = 1.25  # how many times the tokens of its prompts a block may read, padding included ...
CALL = 2**12  # ... beyond as many as are read in the time that the calls of a further block take
FREE_ROWS = 16  # as many rows compute with a key in the time in which it is read from memory


class PromptBlock:
    """P prompts of a batch, and the rows of the batch that follow on them.

    Args:
        prompts: their numbers among all prompts of the batch.
        lengths: tokens of all prompts of the batch.

    Attributes:
        layers: keys and values of each layer, [P, K, S, D].
        rows: numbers of the rows in the batch, or None if these are all rows.
    """

    def __init__(self, prompts: Sequence[int], lengths: Sequence[int], device: torch.device):
        own = torch.tensor([lengths[prompt] for prompt in prompts], device=device)
        padding_PS = torch.arange(int(own.max()), device=device) >= own[:, None]
        self._padding_PS = padding_PS if bool(padding_PS.any()) else None
        self._prompts = torch.tensor(prompts, device=device)
        self._num_all = len(lengths)
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.rows: Tensor | None = None

    def seat(self, prompt_B: Tensor) -> bool:
        """Assigns rows to the seats of their prompts, [P, seats]; False if no row needs the block any more.

        Args:
            prompt_B: for each row of the batch, the number of its prompt.
        """
        place = prompt_B.new_full((self._num_all,), -1)
        place[self._prompts] = torch.arange(len(self._prompts), device=place.device)
        prompt_b = place[prompt_B]
        rows = (prompt_b >= 0).nonzero().squeeze(1)
        if len(rows) == 0:
            return False
        self.rows = None if len(rows) == len(prompt_B) else rows
        prompt_b = self._forget_prompts(prompt_b[rows])
        order = prompt_b.argsort(stable=True)
        counts_P = prompt_b.bincount(minlength=len(self._prompts))
        seats = torch.arange(len(order), device=order.device) - (counts_P.cumsum(0) - counts_P)[prompt_b[order]]
        self._num_seats = int(counts_P.max())
        place_b = torch.empty_like(order)
        place_b[order] = prompt_b[order] * self._num_seats + seats
        in_order = torch.arange(len(counts_P) * self._num_seats, device=order.device)
        self._place_b = None if torch.equal(place_b, in_order) else place_b
        padding = self._padding_PS
        self._padding_b = None if padding is None else padding[prompt_b][:, None, None]
        return True

    def attend(self, layer: int, query: Tensor, to_own: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
        """One softmax covers the scores of the prompt's tokens and of the row's own, n.

        Args:
            query: of all rows of the batch, [B, K, r, D].
            to_own: their scores, [B, K, r, n].

        Returns:
            What this block's b rows read from their prompts, [b, K, r, D], and the weights of their own tokens.
        """
        if self.rows is not None:
            query, to_own = query[self.rows], to_own[self.rows]
        keys, values = self.layers[layer]
        to_prompt = self._to_rows(self._to_prompts(query) @ keys.transpose(2, 3))
        if self._padding_b is not None:
            to_prompt = to_prompt.masked_fill(self._padding_b, -torch.inf)
        scores = torch.cat([to_prompt, to_own], dim=3).float().mul_(scaling)
        weights = scores.softmax(dim=3).to(query.dtype)
        of_prompt, of_own = weights.split([keys.shape[2], to_own.shape[3]], dim=3)
        return self._to_rows(self._to_prompts(of_prompt) @ values), of_own

    def _forget_prompts(self, prompt_b: Tensor) -> Tensor:
        """Drops prompts that no row needs any more, once they are half of all; the new prompt number of each row."""
        needed = prompt_b.unique()
        if 2 * len(needed) > len(self._prompts):
            return prompt_b
        self._prompts = self._prompts[needed]
        self.layers = {layer: (keys[needed], values[needed]) for layer, (keys, values) in self.layers.items()}
        self._padding_PS = None if self._padding_PS is None else self._padding_PS[needed]
        return torch.searchsorted(needed, prompt_b)

    def _to_prompts(self, rows: Tensor) -> Tensor:
        """[b, K, r, n] -> [P, K, seats * r, n]: the rows of a prompt side by side, with 0 in empty seats."""
        if self._place_b is not None:
            seats = rows.new_zeros(len(self._prompts) * self._num_seats, *rows.shape[1:])
            rows = seats.index_copy_(0, self._place_b, rows)
        return rows.unflatten(0, (len(self._prompts), self._num_seats)).transpose(1, 2).flatten(2, 3)

    def _to_rows(self, block: Tensor) -> Tensor:
        """[P, K, seats * r, n] -> [b, K, r, n]."""
        rows = block.unflatten(2, (self._num_seats, -1)).transpose(1, 2).flatten(0, 1)
        return rows if self._place_b is None else rows.index_select(0, self._place_b)


def alike(lengths: Sequence[int], num_rows: Sequence[int]) -> list[list[int]]:
    """Divides prompts into blocks of similar prompts.

    Args:
        lengths: tokens of each prompt.
        num_rows: rows that follow on it.

    Returns:
        The numbers of the prompts of each block, in ascending order.
    """
    blocks: list[list[int]] = []
    num_seats, needed = 0, 0.0
    for prompt in sorted(range(len(lengths)), key=lambda prompt: lengths[prompt]):  # the newest is the longest so far
        num_seats = max(num_seats, num_rows[prompt])
        needed += _cost(lengths[prompt], num_rows[prompt])
        if not blocks or (len(blocks[-1]) + 1) * _cost(lengths[prompt], num_seats) > WASTE * needed + CALL:
            blocks.append([])
            num_seats, needed = num_rows[prompt], _cost(lengths[prompt], num_rows[prompt])
        blocks[-1].append(prompt)
    return [sorted(block) for block in blocks]


def _cost(length: int, num_rows: int) -> float:
    """Of a prompt at each step, in tokens that are read."""
    return length * (1 + num_rows / FREE_ROWS)
