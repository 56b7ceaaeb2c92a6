"""Curves of an arm: a metric over its seeds, by step, gradient step, minute or token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from dapo_lightning.study.arms import Arm
from dapo_lightning.study.intervals import estimate
from dapo_lightning.study.measures import SECONDS
from dapo_lightning.study.runs import Run
from dapo_lightning.study.salvage import Row

SURE = "95 % t interval over seeds"


@dataclass(frozen=True)
class Point:
    """The mean of a metric over `count` seeds that did the same number of DAPO steps; `x` is where they stood by
    then on average. `low` to `high` is the 95 % t interval of three seeds or more, the range of two; of one seed the
    value itself."""

    x: float
    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Axis:
    """Something a run's progress is measured in; `positions` gives it at each DAPO step."""

    label: str
    positions: Callable[[Sequence[Row]], dict[int, float]]


def curve(arm: Arm, metric: str, axis: Axis) -> list[Point]:
    """A metric of an arm, finished or not. `@k` in its name stands for the run's number of held-out completions.

    Seeds are averaged at equal numbers of DAPO steps, on all axes alike.
    """
    where = _positions([axis.positions(run.rows) for run in arm.runs])
    values = [_values(run, metric) for run in arm.runs]
    steps = [step for step in where if any(step in of_run for of_run in values)]
    return [_point(where[step], [of_run[step] for of_run in values if step in of_run]) for step in steps]


def _positions(of_runs: Sequence[dict[int, float]]) -> dict[int, float]:
    """Where the seeds stand on average at each step: the mean way from step to step, summed up, so that the early end
    of a slow seed does not take the others back."""
    steps = sorted({step for of_run in of_runs for step in of_run})
    found: dict[int, float] = {}
    for before, step in zip([None, *steps], steps, strict=False):
        ways = [of_run[step] - of_run[before] for of_run in of_runs if before in of_run and step in of_run]
        if before is not None and ways:
            found[step] = found[before] + fmean(ways)
        else:
            found[step] = fmean(of_run[step] for of_run in of_runs if step in of_run)
    return found


def _values(run: Run, metric: str) -> dict[int, float]:
    name = metric.replace("@k", f"@{run.k}")
    if name.startswith("validation/"):  # those of summary.json, too
        held_out = name.removeprefix("validation/")
        return {step: values[held_out] for step, values in run.evaluations.items() if held_out in values}
    return {row["step"]: row[name] for row in run.rows if name in row}


def _point(x: float, values: Sequence[float]) -> Point:
    if len(values) < 3:
        return Point(x, fmean(values), min(values), max(values), len(values))
    found = estimate(values)
    assert found is not None and found.half_width is not None
    return Point(x, found.mean, found.mean - found.half_width, found.mean + found.half_width, found.count)


def _dapo_steps(rows: Sequence[Row]) -> dict[int, float]:
    return {row["step"]: float(row["step"]) for row in rows}


def _gradient_steps(rows: Sequence[Row]) -> dict[int, float]:
    return dict(_carried(rows, "steps/gradient"))


def _carried(rows: Sequence[Row], name: str) -> Iterator[tuple[int, float]]:
    value = 0.0  # before the first step
    for row in rows:
        value = row.get(name, value)
        yield row["step"], value


def _summed(names: Sequence[str], unit: float) -> Callable[[Sequence[Row]], dict[int, float]]:
    def positions(rows: Sequence[Row]) -> dict[int, float]:
        found, total = {}, 0.0
        for row in rows:
            total += sum(row.get(name, 0.0) for name in names)
            found[row["step"]] = total / unit
        return found

    return positions


GRADIENT_STEPS = Axis("gradient steps", _gradient_steps)
DAPO_STEPS = Axis("DAPO steps", _dapo_steps)
MINUTES = Axis("wall time (minutes of training)", _summed(SECONDS, 60))
TOKENS = Axis("tokens generated (thousands)", _summed(["tokens/generated"], 1000))


def spread(points: Sequence[Point]) -> set[str]:
    """What the band of a curve is, in words."""
    words = {3: SURE, 2: "range of two seeds", 1: "none for one seed"}
    return {words[min(point.count, 3)] for point in points}
