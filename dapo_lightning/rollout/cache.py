"""Keys and values of the tokens so far, for rows that share prompts and leave the batch when they end.

`SharedPromptCache` is for models that accept a layout. `ExpandedCache`, which is slower, is for models whose own cache
can be continued. `NoCache`, which is much slower, is for all other models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache as HFCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from dapo_lightning.forward.layout import is_switched
from dapo_lightning.forward.logprobs import left_pad, positions
from dapo_lightning.forward.ways import ways_of
from dapo_lightning.rollout.shared_cache import SharedPromptCache


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
