"""Sources of prompts with answers: one file per `data=` option, and what all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dapo_lightning.types import Prompt


@dataclass(frozen=True)
class WorkedExample:
    """A prompt with a written-out solution, for the supervised warm start."""

    prompt: str
    solution: str


class Dataset(Protocol):
    """Provides training and held-out prompts. It loads them on the first call, which may raise a DataError."""

    def train_prompts(self) -> Sequence[Prompt]: ...
    def validation_prompts(self) -> Sequence[Prompt]: ...


class DataError(ValueError):
    """Reports a dataset that cannot be used: where (key, or file and row), why, and the remedy."""
