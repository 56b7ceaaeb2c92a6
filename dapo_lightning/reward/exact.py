"""Compares the final answer with the reference as a string."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dapo_lightning.reward import PendingGrades, Reward
from dapo_lightning.reward.unreadable import without_unreadable
from dapo_lightning.types import Grade, Prompt


@dataclass(frozen=True)
class Exact(Reward):
    """A completion is correct iff the text after its last `marker` equals the prompt's answer, apart from white space
    around both.

    Scores are the paper's rule-based reward (Eq. 7): 1 if correct, -1 if not.

    Args:
        unreadable: what references mean that contain the marker, which no answer equals: "error", or "skip" (their rows
            are left out).
    """

    marker: str
    correct: float = 1.0
    wrong: float = -1.0
    unreadable: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        if self.correct <= self.wrong:
            raise ValueError(f"reward.correct={self.correct} must exceed reward.wrong={self.wrong}.")

    @property
    def answer_form(self) -> str:  # type: ignore[override]
        return f"the text after the last {self.marker!r}"

    def usable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Returns the prompts whose references an answer can equal.

        Raises:
            ValueError: see `Reward`.
        """
        why = f"contain the marker {self.marker!r}, after which the answer begins"
        return without_unreadable(prompts, [self.marker in p.answer for p in prompts], self.unreadable, why)

    def submit(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> PendingGrades:
        """Grades at once: comparing strings cannot hang."""
        grades = [self._grade(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]
        return lambda: grades

    def _grade(self, prompt: Prompt, text: str) -> Grade:
        _, found, rest = text.rpartition(self.marker)
        answer = rest.strip() if found else None
        correct = answer == prompt.answer.strip()
        return Grade(score=self.correct if correct else self.wrong, correct=correct, answer=answer)
