"""Mathematical answers: compares the final answer of the completion with the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from dapo_lightning.reward import PendingGrades
from dapo_lightning.reward.pooled import PooledReward
from dapo_lightning.reward.unreadable import without_unreadable
from dapo_lightning.types import Grade, Prompt

DEFAULT_FORM = r"\boxed{...}, a line 'Answer: ...' or '#### ...'"


@dataclass(eq=False)
class Math(PooledReward):
    """A completion is correct iff its final answer equals the prompt's answer: as a string, as a number, or as
    mathematics. Scores are the paper's rule-based reward (Eq. 7): 1 if correct, -1 if not.

    Args:
        pattern: regular expression; the group of its last match is the answer. None: the last `\\boxed{}`, `Answer:`
            line or `####`, whichever comes last after the last `</think>`.
        unreadable: what references mean that are not mathematics: "error", or "skip" (their rows are left out).
    """

    pattern: str | None = None
    correct: float = 1.0
    wrong: float = -1.0
    unreadable: Literal["error", "skip"] = field(default="error", kw_only=True)
    stages = ("string", "number", "symbolic", "too_long", "unparsed")

    def __post_init__(self) -> None:
        if self.correct <= self.wrong:
            raise ValueError(f"reward.correct={self.correct} must exceed reward.wrong={self.wrong}.")
        self.use("dapo_lightning.grading.math_grader.MathGrader", {"pattern": self.pattern})

    @property
    def answer_form(self) -> str:  # type: ignore[override]
        return DEFAULT_FORM if self.pattern is None else f"a match of reward.pattern={self.pattern}"

    def usable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Returns the prompts whose references are mathematics or words. Others equal only answers with the same
        spelling.

        Raises:
            ValueError: see `Reward`.
        """
        outcomes = self.pool.submit([(prompt.answer, r"\boxed{0}") for prompt in prompts]).result()
        unread = [bool(outcome.value) and outcome.value[2] in ("unparsed", "too_long") for outcome in outcomes]
        why = "reward=math cannot read as mathematics or words, so only the same spelling would be correct"
        return without_unreadable(prompts, unread, self.unreadable, why)

    def submit(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> PendingGrades:
        """Submits each completion as a separate item."""
        items = [(prompt.answer, text) for prompt, text in zip(prompts, completions, strict=True)]
        return self.grade(items, self._read, self.wrong)

    def _read(self, verdict: tuple[bool, str | None, str, str | None]) -> Grade:
        correct, answer, stage, vote = verdict  # an answer that cannot be read as mathematics is simply wrong
        return Grade(self.correct if correct else self.wrong, correct, answer, vote, stage=stage)
