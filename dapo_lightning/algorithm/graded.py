"""Keep rules of dynamic sampling for graded rewards: groups with partial scores are not thrown away.

Like Eq. 11, both rules read raw scores, never the shaped reward: a length penalty would give every group a spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, pstdev

from dapo_lightning.algorithm.sampling import Dynamic, usefulness
from dapo_lightning.types import Group, Verdict


@dataclass(frozen=True)
class KeepSpread(Dynamic):
    """Dynamic sampling that keeps groups whose raw scores have a standard deviation above min_std.

    With scores of two values and min_std 0, it is `Dynamic`.

    Raises:
        ValueError: if min_std is negative or not finite.
    """

    min_std: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_std < math.inf:
            raise ValueError(f"sampling.min_std={self.min_std}: must be a finite number of at least 0.")

    def verdict(self, group: Group) -> Verdict:
        """Keeps a group whose scores are spread."""
        return _verdict(group, "no_spread" if not _std(group) > self.min_std else None)


@dataclass(frozen=True)
class KeepRange(Dynamic):
    """Dynamic sampling that keeps groups whose mean raw score lies between two bounds, if their scores differ at all.

    Raises:
        ValueError: if the bounds are the wrong way round.
    """

    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lower < self.upper:
            raise ValueError(
                f"sampling.lower={self.lower} must be below sampling.upper={self.upper}: they bound the mean score of "
                "a group."
            )

    def verdict(self, group: Group) -> Verdict:
        """Keeps a group whose mean score is between the bounds."""
        is_between = self.lower < fmean(_scores(group)) < self.upper
        return _verdict(group, "out_of_range" if not is_between else "no_spread" if not _std(group) > 0 else None)


def _std(group: Group) -> float:
    """Standard deviation of the raw scores with ddof 0; exactly 0 if they are equal."""
    return pstdev(_scores(group))


def _scores(group: Group) -> list[float]:
    return [grade.score for grade in group.grades]


def _verdict(group: Group, problem: str | None) -> Verdict:
    """Groups without a problem are kept. The others are counted as all correct or all wrong, if they are."""
    if problem is None:
        return Verdict(keep=True, reason="useful")
    reason = usefulness(group)
    return Verdict(keep=False, reason=problem if reason == "useful" else reason)
