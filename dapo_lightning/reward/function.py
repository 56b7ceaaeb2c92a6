"""The user's own reward: a Python function named by its dotted path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dapo_lightning.grading.pool import Outcome
from dapo_lightning.reward import PendingGrades, PooledReward, RewardError
from dapo_lightning.types import Grade, Prompt


@dataclass(frozen=True)
class Function(PooledReward):
    """Calls `function(completions=[...], prompts=[...], answers=[...], **columns)`, every argument a list with one
    entry per completion, and expects a list of as many numbers. The function may be async.

    It runs in a child process. If a call takes too long or takes the process down, it is made again for each
    completion alone; the one to blame then counts as wrong, with score `failed`.

    Args:
        path: dotted path, `my_package.my_module.my_function`.
        correct_above: a completion is correct, for accuracy and the keep rule, iff its score exceeds this.
        failed: score of a completion that could not be graded.
    """

    path: str
    correct_above: float = 0.0
    failed: float = 0.0

    def __post_init__(self) -> None:
        if self.failed > self.correct_above:
            raise ValueError(f"reward.failed={self.failed} would count as correct: set it to at most "
                             f"reward.correct_above={self.correct_above}.")  # fmt: skip
        self._use("dapo_lightning.grading.function.Caller", path=self.path)

    def submit(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> PendingGrades:
        """One call for all of them.

        Raises (when waited for):
            RewardError: if the function raises or returns anything but one number per completion.
        """
        pending = self._pool.submit([_arguments(prompts, completions)], [len(completions)])

        def wait() -> list[Grade]:
            (outcome,) = pending.result()
            if outcome.failure is None:
                return [self._grade(score) for score in outcome.value]
            if outcome.failure == "error":
                raise self._error(outcome, prompts[0])
            return self._one_by_one(prompts, completions)

        return wait

    def _one_by_one(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Grade]:
        calls = [_arguments([prompt], [text]) for prompt, text in zip(prompts, completions, strict=True)]
        grades = []
        for prompt, outcome in zip(prompts, self._pool.submit(calls).result(), strict=True):
            if outcome.failure == "error":
                raise self._error(outcome, prompt)
            failed = Grade(self.failed, correct=False, failure=outcome.failure)
            grades.append(self._grade(outcome.value[0]) if outcome.failure is None else failed)
        return grades

    def _grade(self, score: float) -> Grade:
        return Grade(score=score, correct=score > self.correct_above)

    def _error(self, outcome: Outcome, prompt: Prompt) -> RewardError:
        return RewardError(
            f"reward function {self.path} on {prompt.source} ({prompt.text[:60]!r}): {outcome.detail}. "
            "Try it on that row by itself."
        )


def _arguments(prompts: Sequence[Prompt], completions: Sequence[str]) -> Mapping[str, list[Any]]:
    columns = {name: [prompt.columns.get(name) for prompt in prompts] for name in prompts[0].columns}
    return columns | {
        "completions": list(completions),
        "prompts": [list(prompt.messages) or prompt.text for prompt in prompts],
        "answers": [prompt.answer for prompt in prompts],
    }
