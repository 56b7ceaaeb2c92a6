"""Several rewards, added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dapo_lightning.reward import PendingGrades, Reward
from dapo_lightning.types import Grade, Prompt


@dataclass(frozen=True)
class Weighted(Reward):
    """sum of weight * score over the parts; each part's mean score is logged as `reward/<name>`.

    Args:
        parts: rewards by name.
        weights: by the same names.
        correctness: the part that says what is correct, for accuracy and the keep rule, and what the answer is.
    """

    parts: Mapping[str, Reward]
    weights: Mapping[str, float]
    correctness: str

    def __post_init__(self) -> None:
        if set(self.parts) != set(self.weights):
            raise ValueError(
                f"reward.weights are given for {sorted(self.weights)}, but reward.parts are {sorted(self.parts)}: "
                "give every part its weight."
            )
        if self.correctness not in self.parts:
            raise ValueError(f"reward.correctness={self.correctness}: name one of reward.parts, {sorted(self.parts)}.")

    def start(self) -> None:
        """Starts every part."""
        for part in self.parts.values():
            part.start()

    def close(self) -> None:
        """Ends every part."""
        for part in self.parts.values():
            part.close()

    def submit(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> PendingGrades:
        """Every part grades at the same time."""
        pending = {name: part.submit(prompts, completions) for name, part in self.parts.items()}

        def wait() -> list[Grade]:
            grades = {name: grades() for name, grades in pending.items()}
            return [self._added({name: grades[name][index] for name in grades}) for index in range(len(completions))]

        return wait

    def _added(self, grades: Mapping[str, Grade]) -> Grade:
        judge = grades[self.correctness]
        failures = [judge.failure, *(grade.failure for grade in grades.values())]
        return Grade(
            score=sum(self.weights[name] * grade.score for name, grade in grades.items()),
            correct=judge.correct,
            answer=judge.answer,
            failure=next((failure for failure in failures if failure is not None), None),
            parts={name: grade.score for name, grade in grades.items()},
        )
