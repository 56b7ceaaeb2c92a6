"""The cache of models that accept a layout: each prompt is stored once for all its completions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from dapo_lightning.forward.layout import forward
from dapo_lightning.forward.packed_layout import PackedLayout
from dapo_lightning.rollout.prompt_block import PromptBlock, alike

FIRST_CAPACITY = 64  # tokens
READ_AT_ONCE = 2**15  # prompt tokens in one pass; a continued completion counts as part of its prompt


class SharedPromptCache:
    """Stores keys and values once per prompt, and appends those of completions in place, in memory that doubles when it
    is full.

    A step thus reads the keys and values of a prompt once for all its rows, and those of a completion once. It writes
    only the new ones, except when memory grows. The cache is a `Layout`: the model's layers store into it and attend
    through it.
    """

    def __init__(self, model: PreTrainedModel):
        self._model = model
        self._blocks: list[PromptBlock] = []
        self._own: defaultdict[int, tuple[_Tokens, _Tokens]] = defaultdict(lambda: (_Tokens(), _Tokens()))
        self._layout: PackedLayout | None = None  # set only while prompts are read
        self._read_layers: dict[int, tuple[Tensor, Tensor]] = {}  # of the prompts that were read last
        self.longest = 0

    def read_prompts(self, prompts: Sequence[Sequence[int]], num_completions: int, device: torch.device) -> Tensor:
        distinct = {prompt: number for number, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        tokens, lengths = list(distinct), list(map(len, distinct))
        prompt_of = torch.tensor([distinct[tuple(prompt)] for prompt in prompts], device=device)
        blocks = alike(lengths, (prompt_of.bincount() * num_completions).tolist())
        logits = []
        for numbers in blocks:
            read = []
            for part in _parts([tokens[number] for number in numbers]):
                logits.append(self._read(part, device))
                read.append(self._read_layers)
            joined = {layer: _joined([layers[layer] for layers in read]) for layer in self._read_layers}
            self._blocks.append(PromptBlock(numbers, lengths, joined, device))
        self._read_layers = {}

        prompt_B = prompt_of.repeat_interleave(num_completions)
        self._positions_B = torch.tensor(lengths, device=device)[prompt_B]
        self._seat(prompt_B)
        in_blocks = torch.tensor([number for numbers in blocks for number in numbers], device=device)
        return torch.cat(logits)[in_blocks.argsort()[prompt_B]]

    def _read(self, prompts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
        """Feeds distinct prompts in one pass; returns the logits for the token after each, [P, V]."""
        self._read_layers = {}
        layout = self._layout = PackedLayout(prompts, [0] * len(prompts), device)
        tokens_N = torch.tensor([token for prompt in layout.prompts for token in prompt], device=device)
        last = torch.tensor(layout.last_of_prompts(), device=device)
        self.longest = max(self.longest, layout.longest)
        logits_PV = forward(self._model, tokens_N[None], layout.position_ids().to(device), self, keep=last)[0]
        self._layout = None
        return logits_PV

    def step(self, tokens_B: Tensor) -> Tensor:
        self.longest += 1
        logits = forward(self._model, tokens_B[:, None], self._positions_B[:, None], self, keep=1)
        self._positions_B = self._positions_B + 1
        return logits[:, -1]

    def keep(self, rows: Tensor) -> None:
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero().squeeze(1)
        for keys, values in self._own.values():
            keys.move(rows[moved], moved)
            values.move(rows[moved], moved)
        self._positions_B = self._positions_B[rows]
        self._seat(self._prompt_B[rows])

    def _seat(self, prompt_B: Tensor) -> None:
        self._prompt_B = prompt_B
        self._blocks = [block for block in self._blocks if block.seat(prompt_B)]
        rows = [block.rows for block in self._blocks if block.rows is not None]
        self._in_order = torch.cat(rows).argsort() if rows else None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See `Layout`."""
        if self._layout is not None:
            self._read_layers[layer] = tuple(  # type: ignore[assignment]
                self._layout.block.pad(x[0].transpose(0, 1)).transpose(1, 2).contiguous() for x in (key, value)
            )
            return self._layout.attend(layer, query, key, value, scaling)
        (num_rows, num_keys, _, size), repeats = key.shape, query.shape[1] // key.shape[1]
        keys, values = (own.append(x) for own, x in zip(self._own[layer], (key, value), strict=True))
        query = query.reshape(num_rows, num_keys, repeats, size)
        to_own = query @ keys.transpose(2, 3)
        of_blocks = [block.attend(layer, query, to_own, scaling) for block in self._blocks]
        of_prompt, of_own = (self._of_all_rows(parts) for parts in zip(*of_blocks, strict=True))
        out = of_prompt + of_own @ values
        return out.reshape(num_rows, 1, num_keys * repeats, value.shape[3]).contiguous()

    def _of_all_rows(self, parts: Sequence[Tensor]) -> Tensor:
        """Joins the blocks' rows in the order of the batch."""
        return parts[0] if self._in_order is None else torch.cat(list(parts))[self._in_order]


def _parts(prompts: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    """Divides prompts into consecutive parts of at most `READ_AT_ONCE` tokens; a longer prompt is a part of its own."""
    parts: list[list[Sequence[int]]] = []
    room = 0
    for prompt in prompts:
        if not parts or len(prompt) > room:
            parts.append([])
            room = READ_AT_ONCE
        parts[-1].append(prompt)
        room -= len(prompt)
    return parts


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Joins the keys and values of the parts, [p, K, s, D] -> [P, K, S, D], padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    longest = max(keys.shape[2] for keys, _ in parts)
    keys, values = (
        torch.cat([pad(tensor, (0, 0, 0, longest - tensor.shape[2])) for tensor in tensors])
        for tensors in zip(*parts, strict=True)
    )
    return keys, values


class _Tokens:
    """Keys or values of one layer, [rows at the last allocation, K, capacity, D]; the leading rows and tokens are in
    use."""

    def __init__(self) -> None:
        self._memory: Tensor | None = None
        self._length = 0

    def append(self, newest: Tensor) -> Tensor:
        """Adds [B, K, 1, D] and returns all tokens of the B rows, [B, K, n, D]."""
        num_rows, length = newest.shape[0], self._length
        if self._memory is None or self._memory.shape[2] == length:
            capacity = max(FIRST_CAPACITY, 2 * length)
            larger = newest.new_empty(num_rows, newest.shape[1], capacity, newest.shape[3])
            if self._memory is not None:
                larger[:, :, :length] = self._memory[:num_rows]
            self._memory = larger
        self._memory[:num_rows, :, length] = newest[:, :, 0]
        self._length += 1
        return self._memory[:num_rows, :, : self._length]

    def move(self, source: Tensor, to: Tensor) -> None:
        """Copies the rows `source` to the rows `to`."""
        if self._memory is not None:
            self._memory[to, :, : self._length] = self._memory[source, :, : self._length]
