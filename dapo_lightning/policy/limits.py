"""Lengths at which a model begins to treat tokens differently, as its configuration states them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedConfig

_LIMITS = re.compile(
    r"sliding_window(_size)?|attention_chunk_size|keep_window_size|(attention_)?window_size|local_attention"
    r"|index_(topk(_blocks)?|block_size)|indexer_budget|.*_compressed_.*attention|rel_extent|.*attn_chunk_length"
)
LENGTH_DEPENDENT = ("longrope", "dynamic")  # rope types with frequencies that change with the length of the sequence


def is_limit(name: str) -> bool:
    """Whether a key of a configuration limits the tokens that a token attends to."""
    return _LIMITS.fullmatch(name) is not None


def limits_within(config: PreTrainedConfig, reach: int | None) -> dict[str, int]:
    """The limits that a row of `reach` tokens crosses (None: of any length), smallest first."""
    found = {name: value for name, value in _numbers(config.to_dict()) if is_limit(name) and value > 0}
    return {name: value for name, value in sorted(found.items(), key=lambda x: x[1]) if reach is None or value < reach}


def max_positions(config: PreTrainedConfig) -> int | None:
    """The most tokens of a row: those of training, times the factor by which YaRN or Llama 3's scaling extends them.

    Many checkpoints leave `max_position_embeddings` at the length before scaling. None if the model states no limit.
    """
    stated = getattr(config, "max_position_embeddings", None)
    scaled = [
        int(rope["factor"] * rope["original_max_position_embeddings"])
        for rope in _ropes(config)
        if rope["rope_type"] in ("yarn", "llama3") and rope.get("factor") and "original_max_position_embeddings" in rope
    ]
    return stated and max([stated, *scaled])


def changing_positions(config: PreTrainedConfig, reach: int | None) -> tuple[str, int] | None:
    """The rope type and the length beyond which it gives other positions to all tokens of a row, also to earlier ones;
    None if rows of `reach` tokens do not exceed it.

    Beyond this length, log-probs recorded while sampling are not those of any forward pass over the whole row, and
    those of a row depend on the longest row of its batch.
    """
    for rope in _ropes(config):
        if rope["rope_type"] in LENGTH_DEPENDENT:
            original = rope.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            length = original or config.max_position_embeddings
            if reach is None or reach > length:
                return rope["rope_type"], length
    return None


def _ropes(config: PreTrainedConfig) -> list[Mapping[str, Any]]:
    """The parameters of rotary positions, one set or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    return [one for one in [rope, *rope.values()] if isinstance(one, Mapping) and one.get("rope_type")]


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(name), value
