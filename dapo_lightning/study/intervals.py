"""Means over seeds and how sure they are: Student's t, for a handful of runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2)
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` seeds, and half the width of its 95 % confidence interval: none for a single seed."""

    mean: float
    half_width: float | None
    count: int


def t_975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t: what a two-sided 95 % interval takes.

    Above 30 degrees of freedom by the expansion around the normal quantile z (Abramowitz and Stegun 26.7.5), which is
    good to four digits there: z + (z^3 + z) / 4n + (5 z^5 + 16 z^3 + 3 z) / 96 n^2.

    Raises:
        ValueError: without a degree of freedom.
    """
    if degrees < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, not {degrees}.")
    if degrees <= len(T_975):
        return T_975[degrees - 1]
    z = NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean with t s / sqrt(n), s with n - 1; nothing of no values."""
    if not values:
        return None
    if len(values) == 1:
        return Estimate(values[0], None, 1)
    half_width = t_975(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(fmean(values), half_width, len(values))


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """The mean of ours - theirs over the seeds that both have; the interval is that of the differences, so that what a
    seed does to both arms alike (its warm start, its prompts) drops out of it."""
    return estimate([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
