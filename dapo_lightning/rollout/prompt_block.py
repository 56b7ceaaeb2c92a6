"""Keys and values of prompts. Each prompt is stored once, and read once per decoding step, for all its completions.

Within a block, each prompt is padded to the length of the longest, and to the largest number of rows of any prompt. A
batch with prompts of very different lengths, or with very different numbers of rows, is therefore divided into several
blocks. For example, a continued completion forms a long "prompt" (its prompt and the tokens written so far) with one
row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WASTE = 1.25  # a block may cost this many times as much as its prompts without padding, plus CALL
CALL = 2**12  # tokens that could be read in the time that the calls of one more block take
ROWS_PER_READ = 16  # rows that can compute with a key in the time it takes to read the key from memory


class PromptBlock:
    """P prompts of a batch, and the rows of the batch that continue them. Prompts that no row needs are dropped.

    Args:
        prompts: their indices among all prompts of the batch.
        lengths: number of tokens of each prompt of the batch.
        layers: keys and values of each layer, [P, K, S, D], where S is the length of the longest prompt.

    Attributes:
        rows: indices of the block's rows in the batch, or None if the block has all rows.
    """

    def __init__(
        self,
        prompts: Sequence[int],
        lengths: Sequence[int],
        layers: dict[int, tuple[Tensor, Tensor]],
        device: torch.device,
    ):
        own = torch.tensor([lengths[prompt] for prompt in prompts], device=device)
        padding_PS = torch.arange(int(own.max()), device=device) >= own[:, None]
        self._padding_PS = padding_PS if bool(padding_PS.any()) else None
        self._prompts = torch.tensor(prompts, device=device)
        self._num_all = len(lengths)
        self.layers = layers
        self.rows: Tensor | None = None

    def seat(self, prompt_B: Tensor) -> bool:
        """Gives each row of the block a seat beside its prompt, [P, seats]. Returns False if no row needs the block any
        more.

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
        """Attends to prompts and own tokens with one softmax. There are n own tokens of a row, and r query heads per
        key head.

        Args:
            query: of all rows of the batch, [B, K, r, D].
            to_own: unscaled scores of each row's own tokens, [B, K, r, n].

        Returns:
            The prompt's part of the output for the block's b rows, [b, K, r, D], and the attention weights of their own
            tokens, [b, K, r, n].
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
        """Drops prompts that no row needs any more, once they are at least half of the block's prompts. Returns the new
        prompt index of each row."""
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
        num_rows: number of rows that continue it.

    Returns:
        The indices of the prompts of each block, in ascending order.
    """
    blocks: list[list[int]] = []
    num_seats, needed = 0, 0.0
    for prompt in sorted(range(len(lengths)), key=lengths.__getitem__):  # each is the longest so far
        num_seats = max(num_seats, num_rows[prompt])
        needed += _cost(lengths[prompt], num_rows[prompt])
        if not blocks or (len(blocks[-1]) + 1) * _cost(lengths[prompt], num_seats) > WASTE * needed + CALL:
            blocks.append([])
            num_seats, needed = num_rows[prompt], _cost(lengths[prompt], num_rows[prompt])
        blocks[-1].append(prompt)
    return [sorted(block) for block in blocks]


def _cost(length: int, num_rows: int) -> float:
    """The cost of a prompt per decoding step, in tokens that could be read in the same time."""
    return length * (1 + num_rows / ROWS_PER_READ)
