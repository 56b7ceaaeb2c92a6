"""Datasets of prompts and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dapo_lightning.types import Prompt


@dataclass(frozen=True)
class WorkedExample:
    """A prompt's text with a solution written out, for the supervised warm start."""

    prompt: str
    solution: str


class Dataset(Protocol):
    """Train and held-out prompts. They are loaded at the first call; errors name the file or row."""

    def train_prompts(self) -> Sequence[Prompt]: ...
    def validation_prompts(self) -> Sequence[Prompt]: ...


class DataError(ValueError):
    """A dataset cannot be used; the message names the file and row, and the remedy."""
