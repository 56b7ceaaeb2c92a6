"""Anomalies of a sweep, which a table does not show."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from dapo_lightning.study.runs import EXPECTED, VALIDATION, Run
from dapo_lightning.study.variants import Variant
from dapo_lightning.utils.version import CHANGED


def describe_runs(runs: Sequence[Run]) -> list[str]:
    """Returns the anomalies of single runs, and the differences between runs that make a comparison doubtful."""
    return [
        *(f"{run.name}: {anomaly}." for run in runs for anomaly in run.anomalies),
        *(f"{run.name}: {run.describe_progress()}." for run in runs if not run.finished),
        *_commits(runs),
        *_differing(runs, lambda run: run.num_steps, "DAPO steps, so their results cannot be compared"),
        *_differing(runs, lambda run: run.k, "completions per held-out prompt (k), so pass@k cannot be compared"),
        *_unmeasured(runs),
    ]


def missing_seeds(variants: Sequence[Variant]) -> list[str]:
    """Returns a sentence for every variant without some of the seeds that other variants have."""
    seeds: list[set[Any]] = [{run.seed for run in variant.runs} for variant in variants]
    missing = [sorted(set[Any]().union(*seeds) - found) for found in seeds]
    return [
        f"{variant.name}: no run of seed {' or '.join(map(str, some))}, which other variants have."
        for variant, some in zip(variants, missing, strict=True)
        if some
    ]


def _commits(runs: Sequence[Run]) -> list[str]:
    notes, by_commits = [], _names_by(lambda run: run.commits, runs)
    if unknown := by_commits.pop((), None):
        notes.append(f"The commit is not recorded in {unknown}.")
    if len(by_commits) > 1 or any(len(commits) > 1 for commits in by_commits):
        listed = "; ".join(
            f"{', then '.join(map(_short, commits))} in {names}" for commits, names in by_commits.items()
        )
        notes.append(f"Runs come from different commits: {listed}.")
    if dirty := [run for run in runs if any(commit.endswith(CHANGED) for commit in run.commits)]:
        notes.append(f"The code had uncommitted changes in {_names(dirty, runs)}.")
    return notes


def _short(commit: str) -> str:
    return re.sub(r"^([0-9a-f]{10})[0-9a-f]+", r"\1", commit)


def _differing(runs: Sequence[Run], number: Callable[[Run], int | None], what: str) -> list[str]:
    by_number = sorted(_names_by(number, runs).items())
    listed = "; ".join(f"{value} in {names}" for value, names in by_number)
    return [f"Runs have different numbers of {what}: {listed}."] if len(by_number) > 1 else []


def _unmeasured(runs: Sequence[Run]) -> list[str]:
    measured = {run: set(run.metrics.dropna(axis=1, how="all").columns) for run in runs}
    trained = [run for run in runs if any(not name.startswith(VALIDATION) for name in measured[run])]
    lacking = {name: [run for run in trained if name not in measured[run]] for name in EXPECTED}
    return [f"{name} was not measured in {_names(group, runs)}." for name, group in lacking.items() if group]


def _names_by(key: Callable[[Run], Any], runs: Sequence[Run]) -> dict[Any, str]:
    """Returns the names of the runs by a property; runs without it are left out."""
    groups = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return {value: _names(group, runs) for value, group in groups.items() if value is not None}


def _names(group: Sequence[Run], runs: Sequence[Run]) -> str:
    names = [run.name for run in group]
    if 1 < len(runs) == len(group):
        return "all runs"
    return ", ".join(names) if len(names) <= 6 else f"{len(names)} runs ({', '.join(names[:5])}, ...)"
