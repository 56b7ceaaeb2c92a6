"""A weighted sum of several rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dapo_lightning.reward import PendingGrades, Reward
from dapo_lightning.types import Grade, Prompt


class Weighted(Reward):
    """The sum of weight * score over the parts; each part's mean score is logged as `reward/<name>`.

    Args:
        weights: weight of each part, by name.
        correctness: name of the part that extracts the answer and decides whether a completion is correct, for accuracy
            and the keep rule.
        parts: rewards by name.

    Raises:
        ValueError: if the names of weights and parts do not match.
    """

    def __init__(self, weights: Mapping[str, float], correctness: str, **parts: Reward):
        if set(parts) != set(weights):
            raise ValueError(
                f"reward.weights has weights for {sorted(weights)}, but the rewards are {sorted(parts)}: "
                "give each of them a weight."
            )
        if correctness not in parts:
            raise ValueError(f"reward.correctness={correctness}: name one of the rewards, {sorted(parts)}.")
        self.parts, self.weights, self.correctness = parts, dict(weights), correctness

    @property
    def answer_form(self) -> str | None:  # type: ignore[override]
        return self.parts[self.correctness].answer_form

    @property
    def stages(self) -> Sequence[str]:  # type: ignore[override]
        return self.parts[self.correctness].stages

    @property
    def on_error(self) -> str:  # type: ignore[override]
        """The strictest of the parts."""
        chosen = {part.on_error for part in self.parts.values()}
        return next(choice for choice in ("stop", "stop_early", "wrong") if choice in chosen)

    def start(self) -> None:
        """Starts every part."""
        for part in self.parts.values():
            part.start()

    def usable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Returns the prompts whose references all parts can use."""
        for part in self.parts.values():
            prompts = part.usable(prompts)
        return list(prompts)

    def close(self) -> None:
        """Closes every part."""
        for part in self.parts.values():
            part.close()

    def submit(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> PendingGrades:
        """Starts grading in all parts at the same time."""
        pending = {name: part.submit(prompts, completions) for name, part in self.parts.items()}

        def wait() -> list[Grade]:
            by_part = [grades() for grades in pending.values()]
            return [self._sum(dict(zip(pending, grades, strict=True))) for grades in zip(*by_part, strict=True)]

        return wait

    def _sum(self, grades: Mapping[str, Grade]) -> Grade:
        judge = grades[self.correctness]
        failed = [(name, grade) for name, grade in grades.items() if grade.failure is not None]
        name, first = min(failed, key=lambda pair: pair[1] is not judge, default=("", judge))
        return Grade(
            score=sum(self.weights[name] * grade.score for name, grade in grades.items()),
            correct=judge.correct,
            answer=judge.answer,
            vote=judge.vote,
            failure=first.failure,
            detail=f"{name}: {first.detail}" if failed else "",
            kind=judge.kind,
            parts={name: grade.score for name, grade in grades.items()},
            stage=judge.stage,
        )
