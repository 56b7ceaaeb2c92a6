"""Arms: runs that differ in nothing but the seed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from dapo_lightning.study.runs import Run
from dapo_lightning.utils.overrides import leaves, override_key

# Where a run is, what it leaves and on how much of which machine: nothing of it decides what is learnt.
NO_SETTINGS = frozenset({"seed", "resume", "run_folder", "checkpoint", "mode", "logger", "callbacks", "hydra"})
PRECISION = "trainer.precision"  # of the trainer, only this one decides numbers


@dataclass(frozen=True)
class Arm:
    """Runs of the same settings, one per seed.

    Args:
        experiments: what it was run as: several, if these have the same settings.
        extras: overrides beside the experiment that not all arms of the sweep share.
        runs: by seed.
    """

    experiments: tuple[str, ...]
    extras: tuple[str, ...]
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        return " ".join((self.experiments[0], *self.extras))

    @property
    def example(self) -> Run:
        """A run whose settings are known, if there is one."""
        return next((run for run in self.runs if run.settings is not None), self.runs[0])

    @property
    def finished(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.finished)

    @property
    def seeds(self) -> set[int]:
        return {run.seed for run in self.runs if run.seed is not None}


def group_by_settings(runs: Iterable[Run]) -> tuple[list[Arm], list[str]]:
    """The arms of a sweep, and what was odd about telling them apart.

    Runs are compared by their resolved settings, not by how these were asked for. Runs whose config.yaml is lost join
    the arm that was started with the same overrides, or chose the same options; they are left out if nothing is known.
    """
    runs, notes = list(runs), list[str]()
    known = [run for run in runs if run.settings is not None]
    skipped = _not_everywhere(known, notes)
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in known:
        groups[_identity(run, skipped)].append(run)
    for run in [run for run in runs if run.settings is None]:
        key = _by_origin(run, groups)
        if key is None:
            notes.append(f"{run.name}: left out, nothing tells its settings.")
            continue
        if run.overrides is None:
            notes.append(f"{run.name}: its arm is guessed from its options, as nothing tells its overrides.")
        groups[key].append(run)
    arms = _told_apart(_named(list(groups.values())), skipped, notes)
    return [replace(arm, runs=_one_per_seed(arm.runs, notes)) for arm in arms], notes


def settings_of(run: Run, skipped: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The settings that decide what a run learns. Seeds that follow the run's seed are none of them, unless they were
    set by hand; nor is where on a disk something lies."""
    by_hand = {override_key(override) for override in run.overrides or ()}
    folder = str((run.settings or {}).get("run_folder"))

    def counts(name: str) -> bool:
        if name.startswith("trainer."):
            return name == PRECISION
        follows_seed = name.endswith(".seed") and name not in by_hand
        return name.partition(".")[0] not in NO_SETTINGS | skipped and not follows_seed

    return {name: _placeless(leaf, folder) for name, leaf in leaves(run.settings or {}).items() if counts(name)}


def _placeless(leaf: Any, run_folder: str) -> Any:
    if isinstance(leaf, str) and leaf.startswith("/"):
        return leaf.removeprefix(run_folder) if leaf.startswith(run_folder) else PurePath(leaf).name
    return leaf


def _identity(run: Run, skipped: frozenset[str]) -> str:
    return json.dumps(settings_of(run, skipped), sort_keys=True, default=str)


def _not_everywhere(runs: Sequence[Run], notes: list[str]) -> frozenset[str]:
    """Top-level settings that some runs do not know and all others agree on: added between two versions of the code."""
    names = {name for run in runs for name in run.settings or {}}
    skipped = set()
    for name in sorted(names - NO_SETTINGS - {"trainer"}):
        values = [json.dumps((run.settings or {})[name], default=str) for run in runs if name in (run.settings or {})]
        if len(values) < len(runs) and len(set(values)) == 1:
            skipped.add(name)
            notes.append(
                f"`{name}` is a setting in {len(values)} of {len(runs)} runs only: versions of the code differ."
            )
    return frozenset(skipped)


def _kept_overrides(run: Run) -> tuple[str, ...]:
    """Overrides that decide what is learnt, the experiment aside; a number as it held in the end (a run may have been
    resumed with more steps)."""
    values = leaves(run.settings or {})

    def as_it_held(override: str) -> str:
        value = values.get(override_key(override))
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return f"{override_key(override)}={value}" if is_number else override.lstrip("+")

    def counts(name: str) -> bool:
        group = name.partition(".")[0]
        return name == PRECISION or group not in NO_SETTINGS | {"trainer", "experiment"}

    return tuple(sorted({as_it_held(override) for override in run.overrides or () if counts(override_key(override))}))


def _by_origin(run: Run, groups: Mapping[str, Sequence[Run]]) -> str | None:
    """The group of a run whose settings are lost; a new one for what no other run was started with."""
    if run.overrides is not None:
        mine = (run.experiment, _kept_overrides(run))
        same = [
            name for name, group in groups.items() if any((r.experiment, _kept_overrides(r)) == mine for r in group)
        ]
        return same[0] if len(same) == 1 else f"overrides {mine}"
    if not run.choices:
        return None
    same = [name for name, group in groups.items() if any(r.choices == run.choices for r in group)]
    return same[0] if len(same) == 1 else f"choices {sorted(run.choices.items())}"


def _one_per_seed(runs: Sequence[Run], notes: list[str]) -> tuple[Run, ...]:
    """Of runs with the same seed the finished one counts, of several the newest."""
    best_first = sorted(runs, key=lambda run: (run.finished, run.started, run.name), reverse=True)
    chosen: dict[Any, Run] = {}
    for run in best_first:
        taken = chosen.setdefault(run.name if run.seed is None else run.seed, run)
        if taken is not run:
            why = "newer" if taken.finished == run.finished else "finished"
            notes.append(f"{run.name}: left out; {taken.name} has the same settings and seed {run.seed}, and is {why}.")
    return tuple(sorted(chosen.values(), key=lambda run: (run.seed is None, run.seed or 0, run.name)))


def _named(groups: Sequence[Sequence[Run]]) -> list[Arm]:
    """An arm for each group, named by the runs that were given the fewest overrides, without those that all arms share:
    all that can have them, for `overlong.cache_tokens=4` is no setting of an arm without punishment."""
    told = [[run for run in group if run.overrides is not None] or group for group in groups]
    fewest = [min((_kept_overrides(run) for run in group), key=lambda kept: (len(kept), kept)) for group in told]
    shared = {
        override
        for override in set().union(*fewest)
        if all(override in kept or _cannot_have(group, override) for group, kept in zip(groups, fewest, strict=True))
    }
    arms = []
    for group, kept in zip(groups, fewest, strict=True):
        experiments = {run.experiment for run in group if _kept_overrides(run) == kept}
        shortest_first = sorted(experiments, key=lambda name: (len(name), name))
        extras = tuple(override for override in kept if override not in shared)
        arms.append(Arm(tuple(shortest_first), extras, tuple(group)))
    return arms


def _cannot_have(group: Sequence[Run], override: str) -> bool:
    """Whether the option that was chosen of an override's config group lacks its setting."""
    known = next((run for run in group if run.settings is not None), None)
    name = override_key(override)
    return known is not None and name.partition(".")[0] in known.choices and name not in leaves(known.settings or {})


def _told_apart(arms: Sequence[Arm], skipped: frozenset[str], notes: list[str]) -> list[Arm]:
    """Arms with the same name, which runs of different versions of the code or without a record of their overrides can
    have: the one that is best known keeps it, to the others is added what differs, if that is short."""
    by_name: dict[str, list[Arm]] = defaultdict(list)
    for arm in arms:
        by_name[arm.name].append(arm)
    named = []
    for name, alike in by_name.items():
        first, *others = sorted(alike, key=_how_well_known, reverse=True)
        named.append(first)
        ours = settings_of(first.example, skipped)
        for number, arm in enumerate(others):
            theirs = settings_of(arm.example, skipped)
            names = sorted(setting for setting in ours | theirs if ours.get(setting) != theirs.get(setting))
            differs = tuple(f"{setting}={theirs.get(setting, 'null')}" for setting in names if ours and theirs)
            short = differs if 0 < len(differs) <= 3 else (f"(other settings {number + 1})",)
            named.append(replace(arm, extras=(*arm.extras, *short)))
            told = " ".join(differs) or "which is lost"
            notes.append(f"{named[-1].name}: its settings are not those of {name}, although its overrides are: {told}.")
    return named


def _how_well_known(arm: Arm) -> tuple[bool, bool, int, float]:
    overrides_known = all(run.overrides is not None for run in arm.runs)
    settings_known = any(run.settings is not None for run in arm.runs)
    return overrides_known and settings_known, settings_known, len(arm.runs), max(run.started for run in arm.runs)
