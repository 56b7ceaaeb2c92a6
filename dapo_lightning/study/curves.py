"""Curves of a variant: a metric over its seeds, by DAPO step, gradient step, minute or token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd  # type: ignore[import-untyped]

from dapo_lightning.study.intervals import intervals
from dapo_lightning.study.measures import SECONDS
from dapo_lightning.study.runs import VALIDATION, Run
from dapo_lightning.study.variants import Variant


@dataclass(frozen=True)
class Axis:
    """A measure of a run's progress; `positions` gives its value at each DAPO step of `Run.metrics`."""

    label: str
    positions: Callable[[pd.DataFrame], pd.Series]


GRADIENT_STEPS = Axis("gradient steps", lambda metrics: metrics["steps/gradient"].ffill().fillna(0.0))
DAPO_STEPS = Axis("DAPO steps", lambda metrics: pd.Series(metrics.index, metrics.index, dtype=float))
MINUTES = Axis("wall time (minutes of training)", lambda metrics: metrics[SECONDS].sum(axis=1).cumsum() / 60)
TOKENS = Axis("tokens generated (thousands)", lambda metrics: metrics["tokens/generated"].fillna(0.0).cumsum() / 1000)


def curve(variant: Variant, metric: str, axis: Axis) -> pd.DataFrame:
    """Returns a metric of a variant, finished or not: columns x, mean, low, high and count, a row per DAPO step.

    Seeds are averaged at equal numbers of DAPO steps, whatever the axis; `x` is their mean position by then, and
    `count` their number. `low` to `high` is the 95 % t interval of three seeds or more, the range of two seeds, and the
    value of a single seed. `@k` in the name of a metric is replaced by the number of held-out completions.
    """
    values = pd.DataFrame({run.name: _values(run, metric) for run in variant.runs}).sort_index()
    positions = pd.DataFrame({run.name: axis.positions(run.metrics) for run in variant.runs}).sort_index()
    points = intervals(values).assign(x=_mean_positions(positions), low=values.min(axis=1), high=values.max(axis=1))
    many = points["count"] >= 3
    points["low"] = points["low"].mask(many, points["mean"] - points["half_width"])
    points["high"] = points["high"].mask(many, points["mean"] + points["half_width"])
    return points.dropna(subset=["x", "mean"])


def _mean_positions(positions: pd.DataFrame) -> pd.Series:
    """Returns the mean position of the seeds at each step, as a sum of mean increments: a plain mean would go backwards
    where a slow seed ends early."""
    mean = positions.mean(axis=1)
    return positions.diff().mean(axis=1).fillna(mean.diff()).fillna(mean).cumsum()


def _values(run: Run, metric: str) -> pd.Series:
    name = metric.replace("@k", f"@{run.k}")
    frame = run.evaluations if name.startswith(VALIDATION) else run.metrics
    return frame.get(name.removeprefix(VALIDATION), pd.Series(dtype=float))
