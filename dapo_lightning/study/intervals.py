"""Means over seeds with 95 % confidence intervals of Student's t."""

from __future__ import annotations

import pandas as pd  # type: ignore[import-untyped]


def intervals(values: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns mean, half_width and count for each row of `values`, whose columns are seeds.

    half_width is t s / sqrt(n) with the sample standard deviation s (n - 1); it is NaN for a single seed. Missing
    values are left out.
    """
    from scipy.stats import t  # type: ignore[import-untyped]  # takes a second to import

    count = values.count(axis=1)
    half_width = t.ppf(0.975, count.clip(lower=2) - 1) * values.sem(axis=1)
    return pd.DataFrame({"mean": values.mean(axis=1), "half_width": half_width, "count": count})
