"""The user's own reward: a Python function, given by its dotted path."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal

from dapo_lightning.grading.child import Outcome
from dapo_lightning.reward import PendingGrades, RewardError
from dapo_lightning.reward.pooled import PooledReward
from dapo_lightning.types import Grade, Prompt

log = logging.getLogger(__name__)

_OWN = {"answers", "completions", "prompts", "self"}  # names of arguments


@dataclass(eq=False)
class Function(PooledReward):
    """Calls a function with lists that have one entry per completion, and expects a list of as many numbers.

    The function may have these parameters, in any order: `completions`, `prompts`, `answers` (also under the name of
    their column), and all other columns of the data. A function written for TRL works without changes, and so do an
    async function, a class with `__call__`, and an instance; `grading.function_caller` has the details.

    The function runs in a child process. If a call raises an exception, takes too long or ends the process, it is
    repeated for each completion separately; a completion that fails again counts as wrong, with score `failed`.

    Args:
        path: dotted path, `my_package.my_module.my_function`.
        answer_column: column of the data that holds the answer.
        correct_above: a completion is correct, for accuracy and the keep rule, iff its score exceeds this.
        failed: score of a completion that could not be graded.
        on_error: what an exception on a completion means, see `Reward`.
    """

    path: str
    answer_column: str | None = "answer"
    correct_above: float = 0.0
    failed: float = 0.0
    on_error: Literal["stop_early", "stop", "wrong"] = field(default="stop_early", kw_only=True)
    advice: ClassVar[str] = (
        "Call the function on some completions outside of a run to find the cause. Graders have no access to the "
        "network, to files other than Python code, or to environment variables, except for what reward.allow lists."
    )

    def __post_init__(self) -> None:
        if self.failed > self.correct_above:
            raise ValueError(f"reward.failed={self.failed} would count as correct: set it to at most "
                             f"reward.correct_above={self.correct_above}.")  # fmt: skip
        self.use("dapo_lightning.grading.function_caller.FunctionCaller", {"path": self.path})

    def submit(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> PendingGrades:
        """Makes one call for all completions.

        Raises (when the grades are waited for):
            RewardError: if the function cannot be called with these columns, or does not return one score per
                completion; or as `settle` does.
        """
        pending = self.pool.submit([self._arguments(prompts, completions)], [len(completions)])

        def wait() -> list[Grade]:
            (together,) = pending.result()
            if together.failure is None:
                outcomes = self._scores(together, prompts[0])
            else:
                calls = [self._arguments([prompt], [text]) for prompt, text in zip(prompts, completions, strict=True)]
                alone = self.pool.submit(calls).result()
                outcomes = [s for pair in zip(alone, prompts, strict=True) for s in self._scores(*pair)]
            return self.settle(outcomes, self._read, self.failed)

        return wait

    def _read(self, score: float) -> Grade:
        return Grade(score=score, correct=score > self.correct_above)

    def _arguments(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Mapping[str, list[Any]]:
        answers = [prompt.answer for prompt in prompts]
        columns = {name: [prompt.columns.get(name) for prompt in prompts] for name in prompts[0].columns}
        if clashes := tuple(sorted(_OWN & columns.keys())):
            _warn_of(clashes)
            columns.pop("self", None)
        return {
            **({self.answer_column: answers} if self.answer_column else {}),
            **columns,
            "completions": list(completions),
            "prompts": [list(prompt.messages) or prompt.text for prompt in prompts],
            "answers": answers,
        }

    def _scores(self, outcome: Outcome, prompt: Prompt) -> list[Outcome]:
        """Splits the outcome of a call into the outcomes of its completions."""
        if outcome.failure is not None:
            return [outcome]
        if isinstance(outcome.value, str):
            raise RewardError(f"reward.path={self.path} on {prompt.source} ({prompt.text[:60]!r}): {outcome.value}.")
        return [
            Outcome(None, "error", score) if isinstance(score, str) else Outcome(score, None) for score in outcome.value
        ]


@cache
def _warn_of(names: tuple[str, ...]) -> None:
    """Warns once in a run."""
    log.warning("the data has the columns %s, but reward=function reserves these names for other arguments, so the "
                "function does not receive the columns. If it needs them, rename them.", list(names))  # fmt: skip
