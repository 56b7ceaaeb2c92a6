"""Scores of reasoning-gym's own scorers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dapo_lightning.reward import PendingGrades, PooledReward, graded
from dapo_lightning.types import Grade, Prompt


@dataclass(frozen=True)
class ReasoningGym(PooledReward):
    """The task's score, from 0 to 1; many tasks give part of it for an answer that is nearly right.

    Nothing that a completion says is evaluated, though some of the scorers would: see `grading.reasoning_gym.Scorer`.

    Args:
        task, options: those of the data.
        pattern: regular expression; the group of its last match is the answer. None: the whole completion.
        correct_from: a completion is correct, for accuracy and the keep rule, iff its score is at least this.
    """

    task: str
    pattern: str | None
    options: Mapping[str, Any] | None = None
    correct_from: float = 1.0

    def __post_init__(self) -> None:
        options = {"task": self.task, "options": dict(self.options or {}), "pattern": self.pattern}
        self._use("dapo_lightning.grading.reasoning_gym.Scorer", **options)

    def submit(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> PendingGrades:
        """Each completion is an item of its own."""
        items = [(dict(prompt.columns), text) for prompt, text in zip(prompts, completions, strict=True)]
        return graded(self._pool.submit(items), self._read, wrong=0.0)

    def _read(self, value: tuple[float, str | None]) -> Grade:
        score, answer = value
        return Grade(score=score, correct=score >= self.correct_from, answer=answer)
