"""The part of a group that is kept after the step: its numbers without its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dapo_lightning.types import Grade, Group


@dataclass(frozen=True)
class GroupRecord:
    """The numbers of a group that metrics need, small enough to send to every rank. Tuples have one entry for each of
    the G completions; `answered` says whether the reward found a final answer. Entropies (nats) and probabilities are
    summed over all tokens that the policy wrote.

    `turn_...` has an entry for each turn of each completion. These tuples are empty if there can be only one turn;
    correctness and votes of turns are also empty if turns are not graded.
    """

    number: int
    source: str
    scores: tuple[float, ...]
    correct: tuple[bool, ...]
    votes: tuple[str | None, ...]
    answered: tuple[bool, ...]
    stages: tuple[str | None, ...]
    num_tokens: tuple[int, ...]
    truncated: tuple[bool, ...]
    failures: tuple[str | None, ...]
    details: tuple[str, ...]
    parts: tuple[Mapping[str, float], ...]
    kinds: tuple[str | None, ...]
    entropy_sum: float
    probability_sum: float
    turn_correct: tuple[tuple[bool, ...], ...] = ()
    turn_votes: tuple[tuple[str | None, ...], ...] = ()
    turn_tokens: tuple[tuple[int, ...], ...] = ()

    @staticmethod
    def of(group: Group) -> GroupRecord:
        """Returns the record of a graded group."""
        grades, trajectories = group.grades, group.trajectories
        return GroupRecord(
            number=group.number,
            source=group.prompt.source,
            scores=tuple(grade.score for grade in grades),
            correct=tuple(grade.correct for grade in grades),
            votes=tuple(map(_vote, grades)),
            answered=tuple(grade.answer is not None for grade in grades),
            stages=tuple(grade.stage for grade in grades),
            num_tokens=tuple(trajectory.num_tokens for trajectory in trajectories),
            truncated=tuple(trajectory.truncated for trajectory in trajectories),
            failures=tuple(grade.failure for grade in grades),
            details=tuple(grade.detail for grade in grades),
            parts=tuple(grade.parts for grade in grades),
            kinds=tuple(grade.kind for grade in grades),
            entropy_sum=float(sum(t.entropies_T[t.loss_mask_T].sum() for t in trajectories)),
            probability_sum=float(sum(t.logps_T[t.loss_mask_T].exp().sum() for t in trajectories)),
            turn_correct=tuple(tuple(grade.correct for grade in turns) for turns in group.turn_grades),
            turn_votes=tuple(tuple(map(_vote, turns)) for turns in group.turn_grades),
            turn_tokens=tuple(tuple(map(len, t.turns())) for t in trajectories) if group.turn_grades else (),
        )


def _vote(grade: Grade) -> str | None:
    return grade.answer if grade.vote is None else grade.vote
