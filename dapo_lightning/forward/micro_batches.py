"""Cuts rows of unequal length into micro-batches that respect a budget of tokens."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")


def micro_batches(rows: Sequence[T], num_tokens: Callable[[T], int], max_tokens: int) -> list[list[T]]:
    """Micro-batches for padded rows: long rows come first, and each micro-batch, padded to its longest row, holds at
    most `max_tokens` tokens (or a single row)."""
    parts: list[list[T]] = []
    for row in sorted(rows, key=num_tokens, reverse=True):
        if parts and (len(parts[-1]) + 1) * num_tokens(parts[-1][0]) <= max_tokens:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def packed_micro_batches(
    rows: Sequence[T],
    prompt: Callable[[T], Sequence[Hashable]],
    num_completion_tokens: Callable[[T], int],
    max_tokens: int,
) -> list[list[T]]:
    """Micro-batches for a `PackedLayout`: rows keep their order, except that rows with the same prompt come together,
    and each micro-batch holds at most `max_tokens` tokens (or a single row). A prompt counts once in each micro-batch
    that contains it; there is no padding to count."""
    groups: dict[Sequence[Hashable], list[T]] = {}
    for row in rows:
        groups.setdefault(prompt(row), []).append(row)
    parts: list[list[T]] = []
    room = 0
    for tokens, group in groups.items():
        is_new = True  # the last micro-batch does not contain this prompt yet
        for row in group:
            size = num_completion_tokens(row)
            if not parts or size + is_new * len(tokens) > room:
                parts.append([])
                room, is_new = max_tokens, True
            parts[-1].append(row)
            room -= size + is_new * len(tokens)
            is_new = False
    return parts
