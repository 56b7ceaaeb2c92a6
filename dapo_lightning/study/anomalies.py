"""Anomalies of a sweep, so that a table that looks fine does not hide them."""

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
        *_differing(runs, lambda run: run.num_steps, "DAPO steps", "so that their ends cannot be compared"),
        *_differing(
            runs, lambda run: run.k, "completions per held-out prompt (k)", "so that pass@k cannot be compared"
        ),
        *_metrics(runs),
    ]


def describe_variants(variants: Sequence[Variant]) -> list[str]:
    """Returns which seeds are missing."""
    seeds: dict[str, set[Any]] = {variant.name: {run.seed for run in variant.runs} for variant in variants}
    expected = set[Any]().union(*seeds.values())
    missing = {name: " or ".join(map(str, sorted(expected - found))) for name, found in seeds.items()}
    return [f"{name}: no run of seed {seed}, which other variants have." for name, seed in missing.items() if seed]


def _group(runs: Sequence[Run], key: Callable[[Run], Any]) -> dict[Any, list[Run]]:
    groups = defaultdict(list)
    for run in runs:
        if (value := key(run)) is not None:
            groups[value].append(run)
    return groups


def _commits(runs: Sequence[Run]) -> list[str]:
    notes, by_commits = [], _group(runs, lambda run: run.commits)
    if unknown := by_commits.pop((), []):
        notes.append(f"No record of the commit in {_list(unknown, runs)}.")
    if len(by_commits) > 1 or any(len(commits) > 1 for commits in by_commits):
        names = {commits: ", then ".join(map(_short, commits)) for commits in by_commits}
        listed = "; ".join(f"{names[commits]} in {_list(group, runs)}" for commits, group in by_commits.items())
        notes.append(f"Runs come from different commits: {listed}.")
    if dirty := [run for run in runs if any(commit.endswith(CHANGED) for commit in run.commits)]:
        notes.append(f"The code had uncommitted changes in {_list(dirty, runs)}.")
    return notes


def _short(commit: str) -> str:
    return re.sub(r"^([0-9a-f]{10})[0-9a-f]+", r"\1", commit)


def _differing(runs: Sequence[Run], number: Callable[[Run], int | None], what: str, consequence: str) -> list[str]:
    groups = _group(runs, number)
    if len(groups) < 2:
        return []
    listed = "; ".join(f"{value} in {_list(group, runs)}" for value, group in sorted(groups.items()))
    return [f"Runs have different numbers of {what}, {consequence}: {listed}."]


def _metrics(runs: Sequence[Run]) -> list[str]:
    measured = {run.name: set(run.metrics.dropna(axis=1, how="all").columns) for run in runs}
    trained = [run for run in runs if any(not name.startswith(VALIDATION) for name in measured[run.name])]
    lacking = {name: [run for run in trained if name not in measured[run.name]] for name in EXPECTED}
    return [f"{name} was not measured in {_list(group, runs)}." for name, group in lacking.items() if group]


def _list(group: Sequence[Run], runs: Sequence[Run]) -> str:
    names = [run.name for run in group]
    if 1 < len(runs) == len(group):
        return "all runs"
    return ", ".join(names) if len(names) <= 6 else f"{len(names)} runs ({', '.join(names[:5])}, ...)"
