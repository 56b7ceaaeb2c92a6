"""Rows of unequal length -> micro-batches within a budget of tokens."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")


def micro_batches(rows: Sequence[T], num_tokens: Callable[[T], int], max_tokens: int) -> list[list[T]]:
    """Rows sorted by length, longest first, and cut so that each part, padded to its longest row, holds at most
    `max_tokens` tokens (or is a single row)."""
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
    """Rows in their order, those of a prompt together, and cut so that each part holds at most `max_tokens` tokens (or
    is a single row). A prompt counts once in each part that it is in, padding not at all."""
    groups: dict[Sequence[Hashable], list[T]] = {}
    for row in rows:
        groups.setdefault(prompt(row), []).append(row)
    parts: list[list[T]] = []
    room = 0
    for tokens, group in groups.items():
        is_new = True  # to the last part
        for row in group:
            size = num_completion_tokens(row)
            if not parts or size + is_new * len(tokens) > room:
                parts.append([])
                room, is_new = max_tokens, True
            parts[-1].append(row)
            room -= size + is_new * len(tokens)
            is_new = False
    return parts
