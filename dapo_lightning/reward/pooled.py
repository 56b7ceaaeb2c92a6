"""Rewards that grade in child processes, because a child process can be killed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

from lightning.pytorch.utilities import rank_zero_only

from dapo_lightning.grading import sandbox
from dapo_lightning.grading.child import Outcome
from dapo_lightning.grading.pool import GradingError, GradingPool
from dapo_lightning.reward import PendingGrades, Reward, RewardError
from dapo_lightning.types import Grade

log = logging.getLogger(__name__)

_PATIENCE = 32  # completions of at least two prompts


@dataclass(eq=False)
class PooledReward(Reward):
    """A reward that reads hostile text, and therefore reads it in child processes.

    Args:
        num_workers: number of child processes.
        seconds: time limit per completion.
        megabytes: memory that a child may use in addition to what its libraries need.
        allow: what a child may access besides Python code: "everything", "network", "home", names of environment
            variables, and paths.
    """

    num_workers: int
    seconds: float
    megabytes: int
    allow: Sequence[str] | str | None = field(default=(), kw_only=True)
    pool: GradingPool = field(init=False, repr=False)
    advice: ClassVar[str] = "Raise the limit that was exceeded."
    _works: bool = field(init=False, repr=False, default=False)
    _failed: list[list[Grade]] = field(init=False, repr=False, default_factory=list)

    def start(self) -> None:
        """Starts the children, which build their graders."""
        try:
            self.pool.start()
            if not self.pool.permissions.isolated:
                self._say_what_is_open()
        except GradingError as error:
            reason = str(error).partition(": ")[2]  # what follows the name of the grader
            raise ValueError(reason if reason.startswith("reward") else f"reward: {error}") from None

    def _say_what_is_open(self) -> None:
        _say_why_not(sandbox.why_not() or "reward.allow contains everything")

    def close(self) -> None:
        """Ends the children."""
        self.pool.close()

    def use(self, grader: str, options: Mapping[str, Any]) -> None:
        """Creates the pool. Each child creates its own grader, an instance of the class with this dotted path."""
        self.pool = GradingPool(grader, options, self.num_workers, self.seconds, self.megabytes, self.allow)

    def grade(self, items: Sequence[Any], read: Callable[[Any], Grade], wrong: float) -> PendingGrades:
        """Starts grading items, one per completion. `read` converts what the grader returns into grades; see
        `settle`."""
        pending = self.pool.submit(items)
        return lambda: self.settle(pending.result(), read, wrong)

    def settle(self, outcomes: Sequence[Outcome], read: Callable[[Any], Grade], wrong: float) -> list[Grade]:
        """Returns the grades of a prompt's completions. If a completion cannot be graded, its score is `wrong`, and its
        grade contains the reason.

        Raises:
            RewardError: if nothing could be graded since the run began; each failure may take its whole time limit.
        """
        grades = [
            read(outcome.value)
            if outcome.failure is None
            else Grade(wrong, correct=False, failure=outcome.failure, detail=self._why(outcome))
            for outcome in outcomes
        ]
        if not self._works:
            self._works = any(grade.failure is None for grade in grades)
            self._failed.append(grades)
            self._check_beginning()
        return grades

    def _why(self, outcome: Outcome) -> str:
        if outcome.failure == "timeout":
            return f"took longer than reward.seconds={self.seconds:g}"
        if outcome.failure == "memory":
            return f"needed more memory than reward.megabytes={self.megabytes} allows"
        return outcome.detail if outcome.failure == "error" else f"ended the grading process ({outcome.detail})"

    def _check_beginning(self) -> None:
        failed = [grade for grades in self._failed for grade in grades]
        if not self._works and len(self._failed) > 1 and len(failed) >= _PATIENCE:
            kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(grade.failure for grade in failed).items())
            last = f"{'raised ' if failed[-1].failure == 'error' else ''}{failed[-1].detail}"
            raise RewardError(
                f"{type(self).__name__}: none of the first {len(failed)} completions could be graded ({kinds}). The "
                f"last one {last}. {self.advice}"
            )


@cache
def _say_why_not(reason: str) -> None:
    """Warns once in a run, on the first rank."""
    _warn("completions are graded without isolation from the network and from your files: %s.", reason)


_warn = rank_zero_only(log.warning)
