"""Rows of unequal length -> micro-batches with little padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
