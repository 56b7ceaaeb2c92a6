"""Rewards that grade in child processes, which can be killed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dapo_lightning.grading.pool import GradingError, GradingPool
from dapo_lightning.reward import PendingGrades, Reward
from dapo_lightning.types import Grade


@dataclass(eq=False)
class PooledReward(Reward):
    """A reward that reads hostile text, and therefore reads it in child processes.

    Args:
        num_workers: number of child processes.
        seconds: time limit per completion.
        megabytes: memory that a child may take beyond what its libraries need.
    """

    num_workers: int
    seconds: float
    megabytes: int
    pool: GradingPool = field(init=False, repr=False)

    def start(self) -> None:
        """Starts the children, which build their graders."""
        try:
            self.pool.start()
        except GradingError as error:
            reason = str(error).partition(": ")[2]  # what follows the name of the grader
            raise ValueError(reason if reason.startswith("reward") else f"reward: {error}") from None

    def close(self) -> None:
        """Ends the children."""
        self.pool.close()

    def use(self, grader: str, options: Mapping[str, Any]) -> None:
        """Makes the pool, in which each child makes a grader, a class named by its dotted path."""
        self.pool = GradingPool(grader, options, self.num_workers, self.seconds, self.megabytes)

    def grade(self, items: Sequence[Any], read: Callable[[Any], Grade], wrong: float) -> PendingGrades:
        """Starts to grade items, one per completion, and turns what the grader returns into grades with `read`.

        A completion that cannot be graded has score `wrong`, and its grade names the failure.
        """
        pending = self.pool.submit(items)
        return lambda: [
            read(outcome.value) if outcome.failure is None else Grade(wrong, correct=False, failure=outcome.failure)
            for outcome in pending.result()
        ]
