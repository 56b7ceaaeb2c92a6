"""Reads one metric of all evaluations of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

PREFIX = "validation/"
Mode = Literal["max", "min"]


class UnknownMetricError(ValueError):
    """No evaluation has the metric that an option names."""


def held_out(evaluations: Mapping[int, Mapping[str, float]], metric: str, key: str) -> dict[int, float]:
    """Returns the values of a held-out metric by DAPO step.

    Args:
        metric: its name in the logs, such as `validation/avg@8`.
        key: the key of the configuration that names it, for the error.

    Raises:
        UnknownMetricError: naming the metrics that there are.
    """
    name = metric.removeprefix(PREFIX)
    found = {step: values[name] for step, values in evaluations.items() if name in values}
    if evaluations and (not found or not metric.startswith(PREFIX)):
        known = dict.fromkeys(f"{PREFIX}{name}" for values in evaluations.values() for name in values)
        raise UnknownMetricError(f"{key}={metric}: there is no such held-out metric; choose one of {', '.join(known)}.")
    return found


def best_step(values: Mapping[int, float], mode: Mode) -> int:
    """Returns the step with the best value, the first one of several."""
    return max(values, key=lambda step: (values[step] if mode == "max" else -values[step], -step))
