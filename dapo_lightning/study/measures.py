"""What a run came to, as the numbers of the table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from dapo_lightning.study.arms import Arm
from dapo_lightning.study.runs import Run
from dapo_lightning.study.salvage import Row

END_SHARE, END_STEPS = 0.1, 3  # "at the end" of training: so much of the run, but at least so many DAPO steps
SECONDS = ("seconds/generate", "seconds/grade", "seconds/wait", "seconds/update")


def measures(run: Run) -> dict[str, float]:
    """The numbers of a finished run; those that were not measured are left out.

    avg, pass: held-out, after the last step. avg_of_run: avg over the whole run, the area under its curve divided by
    the DAPO steps: it also tells who learns sooner. entropy (nats per token), truncated: of training, means over the
    last steps; entropy_of_run, truncated_of_run, length_of_run (tokens): over all steps. useful_share: of the groups
    that were used up. tokens_per_useful_group: tokens generated per group trained on that was neither all right nor
    all wrong. minutes: generating, grading, waiting for other ranks, and updating.
    """
    after, steps = run.after or {}, [row for row in run.rows if "tokens/generated" in row]
    ends = bool(steps) and steps[-1]["step"] == run.num_steps
    end = steps[-max(END_STEPS, math.ceil(END_SHARE * len(steps))) :] if ends else []
    summary = run.summary or {}
    if summary.get("dapo_steps") != run.num_steps:  # that of a session before
        summary = {}
    groups = num_groups(run)
    found = {
        "avg": after.get(f"avg@{run.k}"),
        "avg_of_run": _area(run, f"avg@{run.k}"),
        "pass": after.get(f"pass@{run.k}"),
        "truncated_held_out": after.get("truncated"),
        "entropy": _mean(end, "entropy"),
        "truncated": _mean(end, "length/truncated"),
        "entropy_of_run": _mean(steps, "entropy"),
        "truncated_of_run": _mean(steps, "length/truncated"),
        "length_of_run": _mean(steps, "length/mean"),
        "tokens_per_useful_group": _tokens_per_useful_group(steps, groups),
        "useful_share": summary.get("useful_group_share", _useful_share(steps, groups)),
        "minutes": _minutes(steps, summary),
        "gradient_steps": summary.get("gradient_steps", steps[-1].get("steps/gradient") if ends else None),
    }
    numbers = {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def num_groups(run: Run) -> float | None:
    """Groups that a step trains on, when there are enough; none if unknown."""
    return (run.settings or {}).get("num_prompts_per_step")


def by_seed(arm: Arm, name: str) -> dict[int, float]:
    """A measure of the finished runs of an arm, whose seed is known."""
    found = {run.seed: measures(run) for run in arm.finished if run.seed is not None}
    return {seed: values[name] for seed, values in found.items() if name in values}


def values(arm: Arm, name: str) -> list[float]:
    """The same, of all finished runs."""
    return [found[name] for run in arm.finished if name in (found := measures(run))]


def middle(arm: Arm, name: str) -> float | None:
    """The median over an arm's finished runs."""
    found = values(arm, name)
    return median(found) if found else None


def _area(run: Run, name: str) -> float | None:
    """Mean height of the line through a metric's evaluations, from before the first step to after the last."""
    points = [(step, metrics[name]) for step, metrics in run.evaluations.items() if name in metrics]
    if len(points) < 2 or points[0][0] != 0:
        return None
    areas = [(after - before) * (low + high) / 2 for (before, low), (after, high) in pairwise(points)]
    return sum(areas) / points[-1][0]


def _mean(rows: Sequence[Row], name: str) -> float | None:
    found = [row[name] for row in rows if name in row]
    return fmean(found) if found else None


def _trained(row: Row, groups: float) -> float:
    """Groups that a step trained on; unless it says so, as many as it was to, which it missed only if dynamic sampling
    ran out of rounds."""
    return row.get("groups/trained", groups)


def _tokens_per_useful_group(steps: Sequence[Row], groups: float | None) -> float | None:
    """Static sampling trains on all groups, so only their useful share counts; of dynamic sampling's all count
    (`groups/useful` includes the surplus, `groups/kept` does not; it has those carried, which are useful, too)."""
    known = [row for row in steps if {"groups/useful", "groups/kept"} <= row.keys()]
    if groups is None or not known:
        return None
    trained = [row for row in known if row["groups/kept"]]  # the others cost tokens, too
    shares = [min(1.0, row["groups/useful"] / row["groups/kept"] + row.get("groups/carried", 0.0)) for row in trained]
    useful = sum(share * _trained(row, groups) for share, row in zip(shares, trained, strict=True))
    return sum(row["tokens/generated"] for row in known) / useful if useful else None


def _useful_share(steps: Sequence[Row], groups: float | None) -> float | None:
    """Over the whole run, steps weighted by the groups that they used up."""
    known = [row for row in steps if row.get("groups/kept") and "groups/useful" in row]
    if groups is None or not known:
        return None
    used_up = [_trained(row, groups) / row["groups/kept"] for row in known]
    return sum(row["groups/useful"] * num for row, num in zip(known, used_up, strict=True)) / sum(used_up)


def _minutes(steps: Sequence[Row], summary: Mapping[str, Any]) -> float | None:
    """Of the whole run: by its summary, which counts steps whose metrics are lost."""
    told = summary.get("seconds") or {
        name.removeprefix("seconds/"): sum(row[name] for row in steps if name in row)
        for name in SECONDS
        if any(name in row for row in steps)
    }
    return sum(told.get(name.removeprefix("seconds/"), 0.0) for name in SECONDS) / 60 if told else None
