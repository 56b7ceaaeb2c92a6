"""Completions -> grades: the seam that every reward implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from dapo_lightning.types import Grade, Prompt

PendingGrades = Callable[[], list[Grade]]
"""A call waits for the grades and returns them."""


class RewardError(RuntimeError):
    """A reward failed; the message names it and the prompt."""


class Reward(ABC):
    """Grades completions of prompts, one grade for each, in order.

    Attributes:
        answer_form: the form of the final answers that it reads, in words; None if it does not read final answers.
    """

    answer_form: str | None = None

    def start(self) -> None:  # noqa: B027 (most have nothing to start)
        """Prepares everything, so that mistakes in the configuration show before the run begins.

        Raises:
            ValueError: naming the key and the remedy.
        """

    def check(self, prompts: Sequence[Prompt]) -> None:  # noqa: B027
        """Says, before the run begins, which reference answers it cannot use."""

    @abstractmethod
    def submit(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> PendingGrades:
        """Starts to grade and returns at once, so that the next completions can be generated meanwhile."""

    def close(self) -> None:  # noqa: B027
        """Ends whatever `start` or `submit` started."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Grade]:
        """Submits and waits."""
        return self.submit(prompts, completions)()
