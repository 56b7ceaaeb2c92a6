"""Means over seeds with 95 % confidence intervals of Student's t, for a handful of runs."""

from __future__ import annotations

import pandas as pd  # type: ignore[import-untyped]


def intervals(values: pd.DataFrame) -> pd.DataFrame:
    """Returns for each row of `values`, whose columns are seeds, the columns mean, half_width and count.

    half_width is t s / sqrt(n), s with n - 1, which a single seed lacks. Missing values are left out.
    """
    from scipy.stats import t  # type: ignore[import-untyped]  # takes a second to import

    count = values.count(axis=1)
    half_width = t.ppf(0.975, count.clip(lower=2) - 1) * values.sem(axis=1)
    return pd.DataFrame({"mean": values.mean(axis=1), "half_width": half_width, "count": count})


def paired_differences(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Returns the intervals of ours - theirs over the seeds that both have, so that the effects that a seed has on both
    (its warm start, its prompts) cancel out."""
    return intervals(ours - theirs)
