"""Completions -> grades."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dapo_lightning.grading.pool import GradingError, GradingPool, Outcome, Pending
from dapo_lightning.types import Grade, Prompt

PendingGrades = Callable[[], list[Grade]]
"""Call to wait for the grades."""


class RewardError(RuntimeError):
    """A reward function failed; the message names it and the prompt."""


class Reward(ABC):
    """Grades completions of prompts, one grade for each, in order."""

    def start(self) -> None:  # noqa: B027 (most have nothing to start)
        """Makes ready, so that whatever is wrong shows now.

        Raises:
            ValueError: naming the key and the remedy.
        """

    @abstractmethod
    def submit(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> PendingGrades:
        """Starts to grade and returns at once, so that the next completions can be generated meanwhile."""

    def close(self) -> None:  # noqa: B027
        """Ends whatever `start` or `submit` started."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Grade]:
        """Submits and waits."""
        return self.submit(prompts, completions)()


@dataclass(frozen=True)
class PooledReward(Reward):
    """A reward that looks at hostile text, and so does it in child processes that can be killed.

    Args:
        num_workers: child processes.
        seconds: time limit per completion.
        megabytes: memory a child may take beyond what its libraries need.
    """

    num_workers: int
    seconds: float
    megabytes: int

    def start(self) -> None:
        """Starts the children, which build their graders."""
        try:
            self._pool.start()
        except GradingError as error:
            raise ValueError(f"reward: {error}") from None

    def close(self) -> None:
        """Ends the children."""
        self._pool.close()

    @property
    def _pool(self) -> GradingPool:
        return self.__dict__["pool"]

    def _use(self, factory: str, **options: Any) -> None:
        """Grade with `factory(**options)`; for `__post_init__`."""
        pool = GradingPool(factory, options, self.num_workers, self.seconds, self.megabytes)
        self.__dict__["pool"] = pool  # frozen: what it grades with is not one of its settings


def graded(pending: Pending, read: Callable[[Any], Grade], wrong: float) -> PendingGrades:
    """Outcomes -> grades: `read` what was returned; a completion that could not be graded is wrong, and is counted."""

    def one(outcome: Outcome) -> Grade:
        return read(outcome.value) if outcome.failure is None else Grade(wrong, correct=False, failure=outcome.failure)

    return lambda: [one(outcome) for outcome in pending.result()]
