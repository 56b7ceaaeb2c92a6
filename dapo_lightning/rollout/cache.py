"""Keys and values of the tokens so far, for rows that share prompts and leave the batch when they end.

`SharedPromptCache` is for models that accept a layout. `ExpandedCache`, which is slower, is for models whose own cache
can be continued. `NoCache`, which is much slower, is for all other models.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.cache_utils import Cache as HFCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from dapo_lightning.forward.layout import forward, is_switched
from dapo_lightning.forward.logprobs import left_pad, positions
from dapo_lightning.forward.packed_layout import PackedLayout
from dapo_lightning.forward.ways import ways_of

FIRST_CAPACITY = 64  # tokens
READ_AT_ONCE = 2**15  # tokens of prompts in a pass; completions that go on are part of their prompts


class Cache(Protocol):
    """The state of the model after it has read the tokens of B rows so far."""

    def step(self, tokens_B: Tensor) -> Tensor:
        """Feeds one token per row and returns the logits for the next one, [B, V]."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Continues with these rows: the new row i is the old row rows[i] >= i."""
        ...


def read_prompts(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], num_completions: int, device: torch.device
) -> tuple[Cache, Tensor]:
    """Feeds P prompts, each once; the cache of B = P * G rows and the logits for their first tokens, [B, V]."""
    cache: SharedPromptCache | ExpandedCache | NoCache
    if is_switched(model):
        cache = SharedPromptCache(model)
    else:
        cache = ExpandedCache(model) if ways_of(model).continues else NoCache(model)
    return cache, cache.read_prompts(prompts, num_completions, device)


class ExpandedCache:
    """The model's own cache, which contains a copy of the prompt for each completion.

    It may contain keys and values, recurrent states, or both; the model's own functions copy and select its rows.

    Raises:
        ValueError: if the model does not create a cache whose rows can be selected.
    """

    def __init__(self, model: PreTrainedModel):
        self._model = model
        self._cache: Any = None  # until the prompts are read
        self._name = "cache"

    def read_prompts(self, prompts: Sequence[Sequence[int]], num_completions: int, device: torch.device) -> Tensor:
        tokens_PS, self._mask_BS = left_pad(prompts, device)
        logits_PV = self._forward(tokens_PS, positions(self._mask_BS))
        rows = torch.arange(len(prompts), device=device).repeat_interleave(num_completions)
        self.keep(rows)
        return logits_PV[rows]

    def step(self, tokens_B: Tensor) -> Tensor:
        self._mask_BS = torch.cat([self._mask_BS, self._mask_BS.new_ones(len(tokens_B), 1)], dim=1)
        return self._forward(tokens_B[:, None], positions(self._mask_BS)[:, -1:])

    def keep(self, rows: Tensor) -> None:
        recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in self._cache.layers)
        (self._cache.reorder_cache if recurrent else self._cache.batch_select_indices)(rows)
        self._mask_BS = self._mask_BS[rows]

    def _forward(self, tokens: Tensor, position_ids: Tensor) -> Tensor:
        # Models without keys apply the mask to the tokens of this call, and after the prompts, none of them is padding.
        masked = self._cache is None or any(isinstance(layer, DynamicLayer) for layer in self._cache.layers)
        out = self._model(
            input_ids=tokens,
            attention_mask=self._mask_BS if masked else None,
            position_ids=position_ids,
            use_cache=True,
            logits_to_keep=1,
            **({} if self._cache is None else {self._name: self._cache}),
        )
        self._name = "cache" if "cache" in out else "past_key_values"  # the name in older releases
        self._cache = out.get(self._name)
        if not isinstance(self._cache, HFCache):
            raise ValueError(f"{type(self._model).__name__} does not create a cache whose rows can be selected")
        return out.logits[:, -1]


class NoCache:
    """Stores only the tokens, all of which are read again at each step."""

    def __init__(self, model: PreTrainedModel):
        self._model = model

    def read_prompts(self, prompts: Sequence[Sequence[int]], num_completions: int, device: torch.device) -> Tensor:
        self._tokens_BS, self._mask_BS = left_pad(prompts, device)
        logits_PV = self._forward()
        rows = torch.arange(len(prompts), device=device).repeat_interleave(num_completions)
        self.keep(rows)
        return logits_PV[rows]

    def step(self, tokens_B: Tensor) -> Tensor:
        self._tokens_BS = torch.cat([self._tokens_BS, tokens_B[:, None]], dim=1)
        self._mask_BS = torch.cat([self._mask_BS, self._mask_BS.new_ones(len(tokens_B), 1)], dim=1)
        return self._forward()

    def keep(self, rows: Tensor) -> None:
        self._tokens_BS, self._mask_BS = self._tokens_BS[rows], self._mask_BS[rows]

    def _forward(self) -> Tensor:
        return self._model(
            input_ids=self._tokens_BS,
            attention_mask=self._mask_BS,
            position_ids=positions(self._mask_BS),
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]


class SharedPromptCache:
    """Holds keys and values once per prompt, and those of completions in place, in memory that grows by doubling.

    A step thus reads every key and value once per prompt or once per row, and writes only the new ones. The cache is a
    `Layout`: the model's layers store into it and attend through it.
    """

    def __init__(self, model: PreTrainedModel):
        self._model = model
        self._prompts: dict[int, tuple[Tensor, Tensor]] = {}  # of each layer, [P, K, S, D]
        self._own: defaultdict[int, tuple[_Tokens, _Tokens]] = defaultdict(lambda: (_Tokens(), _Tokens()))
        self._layout: PackedLayout | None = None  # while prompts are read
        self.longest = 0

    def read_prompts(self, prompts: Sequence[Sequence[int]], num_completions: int, device: torch.device) -> Tensor:
        distinct = {prompt: number for number, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        read: list[dict[int, tuple[Tensor, Tensor]]] = []
        logits = []
        for part in _parts(list(distinct)):
            logits.append(self._read(part, device))
            read.append(self._prompts)
            self._prompts = {}
        for layer in read[0]:
            keys, values = zip(*(part[layer] for part in read), strict=True)
            self._prompts[layer] = _joined(keys), _joined(values)

        lengths_P = torch.tensor([len(prompt) for prompt in distinct], device=device)
        padding_PS = torch.arange(self.longest, device=device) >= lengths_P[:, None]
        prompt_of = [distinct[tuple(prompt)] for prompt in prompts]
        prompt_B = torch.tensor(prompt_of, device=device).repeat_interleave(num_completions)
        self._num_prompts = len(distinct)
        self._padding_PS = padding_PS if bool(padding_PS.any()) else None
        self._positions_B = lengths_P[prompt_B]
        self._seat(prompt_B)
        return torch.cat(logits)[prompt_B]

    def _read(self, prompts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
        """Feeds distinct prompts in one pass; the logits for the tokens that follow on them, [P, V]."""
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
        self._seat(self._forget_prompts(self._prompt_B[rows]))

    def _forget_prompts(self, prompt_B: Tensor) -> Tensor:
        """Drops prompts that no row needs any more, once they are half of all; the new prompt number of each row."""
        needed = prompt_B.unique()
        if 2 * len(needed) > self._num_prompts:
            return prompt_B
        self._num_prompts = len(needed)
        self._prompts = {layer: (keys[needed], values[needed]) for layer, (keys, values) in self._prompts.items()}
        self._padding_PS = None if self._padding_PS is None else self._padding_PS[needed]
        return torch.searchsorted(needed, prompt_B)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See `Layout`. One softmax covers the scores of the prompt's tokens and of the row's own."""
        if self._layout is not None:
            self._prompts[layer] = tuple(  # type: ignore[assignment]
                self._layout.block.pad(x[0].transpose(0, 1)).transpose(1, 2).contiguous() for x in (key, value)
            )
            return self._layout.attend(layer, query, key, value, scaling)
        (num_rows, num_keys, _, size), repeats = key.shape, query.shape[1] // key.shape[1]
        keys, values = (own.append(x) for own, x in zip(self._own[layer], (key, value), strict=True))
        prompt_keys, prompt_values = self._prompts[layer]
        query = query.reshape(num_rows, num_keys, repeats, size)
        to_prompt = self._to_rows(self._to_prompts(query) @ prompt_keys.transpose(2, 3))
        if self._padding_B is not None:
            to_prompt = to_prompt.masked_fill(self._padding_B, -torch.inf)
        scores = torch.cat([to_prompt, query @ keys.transpose(2, 3)], dim=3).float().mul_(scaling)
        weights = scores.softmax(dim=3).to(query.dtype)
        of_prompt, of_own = weights.split([prompt_keys.shape[2], keys.shape[2]], dim=3)
        out = self._to_rows(self._to_prompts(of_prompt) @ prompt_values) + of_own @ values
        return out.reshape(num_rows, 1, num_keys * repeats, value.shape[3]).contiguous()

    def _seat(self, prompt_B: Tensor) -> None:
        """Assigns rows to the seats of their prompts, [P, seats], so that each prompt is read once for all its rows."""
        self._prompt_B = prompt_B
        order = prompt_B.argsort(stable=True)
        counts_P = prompt_B.bincount(minlength=self._num_prompts)
        seats = torch.arange(len(order), device=order.device) - (counts_P.cumsum(0) - counts_P)[prompt_B[order]]
        self._num_seats = int(counts_P.max())
        place_B = torch.empty_like(order)
        place_B[order] = prompt_B[order] * self._num_seats + seats
        in_order = torch.arange(len(counts_P) * self._num_seats, device=order.device)
        self._place_B = None if torch.equal(place_B, in_order) else place_B
        padding = self._padding_PS
        self._padding_B = None if padding is None else padding[prompt_B][:, None, None]

    def _to_prompts(self, rows: Tensor) -> Tensor:
        """[B, K, r, n] -> [P, K, seats * r, n]: the rows of a prompt side by side, with 0 in empty seats."""
        if self._place_B is not None:
            seats = rows.new_zeros(self._num_prompts * self._num_seats, *rows.shape[1:])
            rows = seats.index_copy_(0, self._place_B, rows)
        return rows.unflatten(0, (self._num_prompts, self._num_seats)).transpose(1, 2).flatten(2, 3)

    def _to_rows(self, block: Tensor) -> Tensor:
        """[P, K, seats * r, n] -> [B, K, r, n]."""
        rows = block.unflatten(2, (self._num_seats, -1)).transpose(1, 2).flatten(0, 1)
        return rows if self._place_B is None else rows.index_select(0, self._place_B)


def _parts(prompts: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    """Consecutive prompts of at most `READ_AT_ONCE` tokens, or single ones."""
    parts: list[list[Sequence[int]]] = []
    room = 0
    for prompt in prompts:
        if not parts or len(prompt) > room:
            parts.append([])
            room = READ_AT_ONCE
        parts[-1].append(prompt)
        room -= len(prompt)
    return parts


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """[p, K, s, D] of each part -> [P, K, S, D], padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    longest = max(part.shape[2] for part in parts)
    return torch.cat([pad(part, (0, 0, 0, longest - part.shape[2])) for part in parts])


class _Tokens:
    """Keys or values of one layer, [first number of rows, K, capacity, D]; the leading rows and tokens are in use."""

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
        """Copies rows to the places of others."""
        if self._memory is not None:
            self._memory[to, :, : self._length] = self._memory[source, :, : self._length]
