"""Mathematical answers: compares the final answer of the completion with the reference."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from dapo_lightning.reward import PendingGrades
from dapo_lightning.reward.pooled import PooledReward
from dapo_lightning.types import Grade, Prompt

log = logging.getLogger(__name__)

DEFAULT_FORM = r"\boxed{...}, a line 'Answer: ...' or '#### ...'"


@dataclass(eq=False)
class Math(PooledReward):
    """A completion is correct iff its final answer equals the prompt's answer: as a string, as a number, or as
    mathematics. Scores are the paper's rule-based reward (Eq. 7): 1 if correct, -1 if not.

    Args:
        pattern: regular expression; the group of its last match is the answer. None: the last `\\boxed{}`, `Answer:`
            line or `####`, whichever comes last after the last `</think>`.
    """

    pattern: str | None = None
    correct: float = 1.0
    wrong: float = -1.0

    def __post_init__(self) -> None:
        if self.correct <= self.wrong:
            raise ValueError(f"reward.correct={self.correct} must exceed reward.wrong={self.wrong}.")
        self.use("dapo_lightning.grading.math_grader.MathGrader", {"pattern": self.pattern})

    @property
    def answer_form(self) -> str:  # type: ignore[override]
        return DEFAULT_FORM if self.pattern is None else f"a match of reward.pattern={self.pattern}"

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Warns of references that are not mathematics: they are equal only to answers with the same spelling."""
        outcomes = self.pool.submit([(prompt.answer, r"\boxed{0}") for prompt in prompts]).result()
        pairs = zip(prompts, outcomes, strict=True)
        unread = [prompt for prompt, outcome in pairs if outcome.value and outcome.value[2] in ("unparsed", "too_long")]
        if unread:
            log.warning(
                "reward=math cannot read %d of %d reference answers as mathematics or words, such as %.80r in %s: only "
                "answers with exactly the same spelling will be correct.",
                len(unread), len(prompts), unread[0].answer, unread[0].source,
            )  # fmt: skip

    def submit(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> PendingGrades:
        """Submits each completion as a separate item."""
        items = [(prompt.answer, text) for prompt, text in zip(prompts, completions, strict=True)]
        return self.grade(items, self._read, self.wrong)

    def _read(self, verdict: tuple[bool, str | None, str, str | None]) -> Grade:
        correct, answer, stage, vote = verdict  # an answer that cannot be read as mathematics is simply wrong
        return Grade(self.correct if correct else self.wrong, correct, answer, vote, stage=stage)
