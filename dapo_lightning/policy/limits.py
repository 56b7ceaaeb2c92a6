"""The lengths in a model's configuration beyond which the model treats tokens differently."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedConfig

_LIMITS = re.compile(
    r"sliding_window(_size)?|attention_chunk_size|keep_window_size|(attention_)?window_size|local_attention"
    r"|index_(topk(_blocks)?|block_size)|indexer_budget|.*_compressed_.*attention|rel_extent|.*attn_chunk_length"
)
LENGTH_DEPENDENT = ("longrope", "dynamic")  # RoPE types whose frequencies depend on the length of the sequence


def is_limit(name: str) -> bool:
    """Whether a key of a configuration limits how many tokens a token attends to."""
    return _LIMITS.fullmatch(name) is not None


def limits_within(config: PreTrainedConfig, reach: int | None) -> dict[str, int]:
    """Returns the limits that a row of `reach` tokens exceeds (None: a row of any length), smallest first."""
    found = {name: value for name, value in _numbers(config.to_dict()) if is_limit(name) and value > 0}
    return {name: value for name, value in sorted(found.items(), key=lambda x: x[1]) if reach is None or value < reach}


def max_positions(config: PreTrainedConfig) -> int | None:
    """Returns the maximum number of tokens in a row: that of pretraining, times the scaling factor of YaRN or Llama 3.

    In many checkpoints, `max_position_embeddings` is the length before scaling. None if the model has no limit.
    """
    stated = getattr(config, "max_position_embeddings", None)
    scaled = [
        int(rope["factor"] * rope["original_max_position_embeddings"])
        for rope in _ropes(config)
        if rope["rope_type"] in ("yarn", "llama3") and rope.get("factor") and "original_max_position_embeddings" in rope
    ]
    return stated and max([stated, *scaled])


def changing_positions(config: PreTrainedConfig, reach: int | None) -> tuple[str, int] | None:
    """Returns the RoPE type, and the length beyond which it changes the positions of all tokens in a row, including
    earlier ones; None if rows of `reach` tokens do not exceed this length.

    Beyond this length, the log-probs recorded while sampling do not match a forward pass over the whole row, and the
    log-probs of a row depend on the longest row in its batch.
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
    """Returns the parameters of rotary positions: one set, or one set for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    return [one for one in [rope, *rope.values()] if isinstance(one, Mapping) and one.get("rope_type")]


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(name), value
