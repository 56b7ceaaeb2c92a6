"""Completions -> grades: the interface that every reward implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from dapo_lightning.types import Grade, Prompt

PendingGrades = Callable[[], list[Grade]]
"""Calling it waits for the grades and returns them."""


class RewardError(RuntimeError):
    """A reward failed; the message identifies the reward and the prompt."""


class Reward(ABC):
    """Grades completions of prompts: one grade for each completion, in order.

    Attributes:
        answer_form: describes the form of the final answers that the reward reads; None if it reads no final answers.
        stages: the stages that its grades may name, except "none" (no final answer); empty if it has only one way to
            decide.
        on_error: what an exception of the reward on a completion means: "wrong" (the completion counts as failed),
            "stop" (the run ends), or "stop_early" (the run ends in its first step; afterwards as "wrong").
    """

    answer_form: str | None = None
    stages: Sequence[str] = ()
    on_error: str = "wrong"

    def start(self) -> None:  # noqa: B027 (most have nothing to start)
        """Prepares everything, so that mistakes in the configuration are found before the run begins.

        Raises:
            ValueError: naming the key and the remedy.
        """

    def usable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Returns the prompts whose references the reward can use, before the run begins.

        Raises:
            ValueError: naming the row and the remedy, if a reference cannot be used and must not be left out.
        """
        return list(prompts)

    @abstractmethod
    def submit(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> PendingGrades:
        """Starts grading and returns at once, so that the next completions can be generated in the meantime."""

    def close(self) -> None:  # noqa: B027
        """Ends everything that `start` or `submit` has started."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Grade]:
        """Submits and waits."""
        return self.submit(prompts, completions)()
