"""What is odd about a sweep, so that nobody has to find out from a table that looks fine."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from dapo_lightning.study.arms import Arm
from dapo_lightning.study.ladder import missing_rungs
from dapo_lightning.study.runs import Run
from dapo_lightning.utils.version import CHANGED

NEEDED = (
    "entropy", "length/mean", "length/truncated", "reward/mean", "probability", "groups/useful", "groups/kept",
    "groups/all_correct", "tokens/generated", "steps/gradient", "seconds/generate", "seconds/update",
)  # fmt: skip


def of_runs(runs: Sequence[Run]) -> list[str]:
    """What is odd about single runs, and about runs beside each other."""
    notes = [f"{run.name}: {oddity}." for run in runs for oddity in run.oddities]
    notes += [f"{run.name}: {run.stands()}." for run in runs if not run.finished]
    notes += _commits(runs)
    notes += _steps(runs)
    notes += _completions(runs)
    return notes + _metrics(runs)


def of_arms(arms: Sequence[Arm]) -> list[str]:
    """Seeds and rungs that are missing."""
    expected = {seed for arm in arms for seed in arm.seeds}
    notes = []
    for arm in arms:
        missing = sorted(expected - arm.seeds)
        if missing:
            notes.append(f"{arm.name}: no run of seed {' or '.join(map(str, missing))}, which other arms have.")
    missing_ones = missing_rungs(arms)
    if missing_ones:
        notes.append(f"Rungs of the ladder that were not run: {', '.join(missing_ones)}.")
    return notes


def _commits(runs: Sequence[Run]) -> list[str]:
    by_commits: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        by_commits[run.commits].append(run)
    notes = []
    unknown = by_commits.pop((), [])
    if unknown:
        notes.append(f"No record of the commit in {_of(unknown, runs)}.")
    if len(by_commits) > 1 or any(len(commits) > 1 for commits in by_commits):
        told = "; ".join(f"{_joined(commits)} in {_of(group, runs)}" for commits, group in by_commits.items())
        notes.append(f"Runs come from different commits: {told}.")
    dirty = [run for run in runs if any(commit.endswith(CHANGED) for commit in run.commits)]
    if dirty:
        notes.append(f"The code had changes that no commit holds in {_of(dirty, runs)}.")
    return notes


def _joined(commits: Sequence[str]) -> str:
    return ", then ".join(re.sub(r"^([0-9a-f]{10})[0-9a-f]+", r"\1", commit) for commit in commits)


def _steps(runs: Sequence[Run]) -> list[str]:
    return _differing(runs, {run.name: run.num_steps for run in runs}, "DAPO steps", "what they end with is not alike")


def _completions(runs: Sequence[Run]) -> list[str]:
    numbers = {run.name: run.k for run in runs}
    return _differing(runs, numbers, "completions per held-out prompt (k)", "pass@k cannot be compared")


def _differing(runs: Sequence[Run], numbers: dict[str, int | None], what: str, so: str) -> list[str]:
    groups: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        number = numbers[run.name]
        if number is not None:
            groups[number].append(run)
    if len(groups) < 2:
        return []
    told = "; ".join(f"{number} in {_of(group, runs)}" for number, group in sorted(groups.items()))
    return [f"Runs have different numbers of {what}, {so}: {told}."]


def _metrics(runs: Sequence[Run]) -> list[str]:
    lacking: dict[str, list[Run]] = defaultdict(list)
    trained = [run for run in runs if any(row["step"] > 0 for row in run.rows)]
    for run in trained:
        measured = {name for row in run.rows for name in row}
        for name in NEEDED:
            if name not in measured:
                lacking[name].append(run)
    return [f"{name} was not measured in {_of(group, runs)}." for name, group in lacking.items()]


def _of(group: Sequence[Run], runs: Sequence[Run]) -> str:
    if len(group) == len(runs):
        return "all runs" if len(runs) > 1 else group[0].name
    names = [run.name for run in group]
    return ", ".join(names) if len(names) <= 6 else f"{len(names)} runs ({', '.join(names[:5])}, ...)"
