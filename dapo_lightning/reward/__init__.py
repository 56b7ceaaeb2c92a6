"""Completions -> grades."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dapo_lightning.types import Grade, Prompt


class Reward(Protocol):
    """Grades completions of prompts, one grade for each, in order."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Grade]: ...


class RewardError(RuntimeError):
    """A reward function failed; the message names it and the prompt."""
