"""Rewards that are computed by the scorers of reasoning-gym."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dapo_lightning.reward import PendingGrades
from dapo_lightning.reward.pooled import PooledReward
from dapo_lightning.types import Grade, Prompt


@dataclass(eq=False)
class ReasoningGym(PooledReward):
    """The task's score, from 0 to 1; many tasks give partial credit for an answer that is nearly right.

    No part of a completion is evaluated as code, although some of the scorers would do so: see `grading.gym_scorer`.

    Args:
        task, options: the same as those of the data.
        pattern: regular expression; the group of its last match is the answer. None: the whole completion.
        correct_from: a completion is correct, for accuracy and the keep rule, iff its score is at least this.
    """

    task: str
    pattern: str | None
    options: Mapping[str, Any] | None = None
    correct_from: float = 1.0

    def __post_init__(self) -> None:
        options = {"task": self.task, "options": dict(self.options or {}), "pattern": self.pattern}
        self.use("dapo_lightning.grading.gym_scorer.GymScorer", options)

    @property
    def answer_form(self) -> str | None:  # type: ignore[override]
        return None if self.pattern is None else f"a match of reward.pattern={self.pattern}"

    def submit(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> PendingGrades:
        """Submits each completion as a separate item."""
        items = [(dict(prompt.columns), text) for prompt, text in zip(prompts, completions, strict=True)]
        return self.grade(items, self._read, wrong=0.0)

    def _read(self, value: tuple[float, str | None]) -> Grade:
        score, answer = value
        return Grade(score=score, correct=score >= self.correct_from, answer=answer)
