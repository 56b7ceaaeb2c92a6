"""Means over seeds with 95 % confidence intervals of Student's t, for a handful of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd  # type: ignore[import-untyped]
from scipy.stats import t  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` seeds and half the width of its 95 % confidence interval, which a single seed lacks."""

    mean: float
    half_width: float | None
    count: int


def estimate(values: Iterable[float]) -> Estimate | None:
    """Returns the mean with t s / sqrt(n), s with n - 1. Missing values are left out; without values there is none."""
    known = pd.Series(values, dtype=float).dropna()
    if known.empty:
        return None
    half_width = float(t.ppf(0.975, len(known) - 1) * known.sem()) if len(known) > 1 else None
    return Estimate(float(known.mean()), half_width, len(known))


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """Returns the mean of ours - theirs over the seeds that both have. Its interval is that of the differences, so that
    the effects that a seed has on both (its warm start, its prompts) cancel out."""
    return estimate(pd.Series(ours, dtype=float) - pd.Series(theirs, dtype=float))
