"""Variants: runs that differ in nothing but the seed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePath
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from dapo_lightning.study.measures import NAMES, measures
from dapo_lightning.study.runs import Run
from dapo_lightning.utils.overrides import override_key

# Settings without influence on what is learned: the place of a run, its output, and its machine.
NOT_LEARNED = frozenset(
    {
        "seed",
        "resume",
        "run_folder",
        "checkpoint",
        "mode",
        "logger",
        "callbacks",
        "trainer",
        "hydra",
        "experiment",
        "changes",
        "profile",
    }
)


@dataclass(frozen=True, eq=False)
class Variant:
    """Runs with the same settings, one per seed."""

    experiments: tuple[str, ...]  # that it was run as; several if they have the same settings
    extras: tuple[str, ...]  # overrides beside the experiment that not all variants of the sweep share
    runs: tuple[Run, ...]  # sorted by seed
    settings: Mapping[str, Any] = field(default_factory=dict)  # those that influence what is learned, by full name

    @property
    def name(self) -> str:
        return " ".join((self.experiments[0], *self.extras))

    @property
    def numbers(self) -> dict[str, float]:
        """The extras that are numbers."""
        pairs = [extra.partition("=")[::2] for extra in self.extras]
        return {key: number for key, text in pairs if pd.notna(number := pd.to_numeric(text, errors="coerce"))}

    @property
    def finished(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.finished)

    @cached_property
    def results(self) -> pd.DataFrame:
        """A row per measure, a column per seed that is finished."""
        found = {run.seed: measures(run) for run in self.finished}
        names = dict.fromkeys((*NAMES, *(name for of_seed in found.values() for name in of_seed)))
        return pd.DataFrame(found, index=[*names], dtype=float)


def completions_per_prompt(variants: Iterable[Variant]) -> list[int]:
    """Returns the numbers of completions per held-out prompt of all runs."""
    return sorted({run.k for variant in variants for run in variant.runs if run.k})


def at_k(title: str, variants: Iterable[Variant]) -> str:
    """Replaces k by the number of completions per held-out prompt, if that is the same everywhere."""
    ks = completions_per_prompt(variants)
    return title.replace("@k", f"@{ks[0]}") if len(ks) == 1 else title


def group_by_settings(runs: Sequence[Run]) -> tuple[list[Variant], list[str]]:
    """Returns the variants of a sweep, and notes on runs that are hard to assign.

    Runs are compared by their resolved settings, not by the overrides that led to them. A run whose config.yaml is lost
    joins the variant with the same options if there is exactly one; otherwise it is left out.
    """
    notes: list[str] = []
    known = [run for run in runs if run.settings]
    ignored = NOT_LEARNED | _settings_of_some(known, notes)
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in known:
        groups[json.dumps(_learned_settings(run, ignored), sort_keys=True, default=str)].append(run)
    variants = _name(list(groups.values()), ignored)
    for run in [run for run in runs if not run.settings]:
        alike = [n for n, variant in enumerate(variants) if run.choices in [other.choices for other in variant.runs]]
        if run.choices and len(alike) == 1:
            variants[alike[0]] = replace(variants[alike[0]], runs=(*variants[alike[0]].runs, run))
            notes.append(f"{run.name}: its variant is guessed from its options, because its settings are lost.")
        else:
            reason = "several variants have its options" if run.choices and alike else "no other run has its options"
            notes.append(f"{run.name}: left out, because its settings are lost and {reason}.")
    variants = _rename_homonyms(variants, notes)
    return [replace(variant, runs=_one_per_seed(variant.runs, notes)) for variant in variants], notes


def _learned_settings(run: Run, ignored: Collection[str]) -> dict[str, Any]:
    """Returns the settings that influence what a run learns. Seeds that follow the run's seed are not among them,
    unless they are overridden; of files and folders, the place does not count."""
    overridden = {override_key(override) for override in run.overrides}
    folder = str(run.settings["run_folder"])

    def without_place(leaf: Any) -> Any:
        if isinstance(leaf, str) and leaf.startswith("/"):
            return leaf.removeprefix(folder) if leaf.startswith(folder) else PurePath(leaf).name
        return leaf

    return {
        name: without_place(leaf)
        for name, leaf in run.leaves.items()
        if _is_learned(name, ignored) and (not name.endswith(".seed") or name in overridden)
    }


def _is_learned(name: str, ignored: Collection[str] = NOT_LEARNED) -> bool:
    """Returns whether a setting influences what is learned; of the trainer's settings, only the precision does."""
    return name == "trainer.precision" or name.partition(".")[0] not in ignored


def _settings_of_some(runs: Sequence[Run], notes: list[str]) -> set[str]:
    """Returns the top-level settings that some runs lack and all others agree on: they come from different versions of
    the code, only one of which knows the setting."""
    found = set()
    for name in sorted({name for run in runs for name in run.settings} - NOT_LEARNED):
        values = [json.dumps(run.settings[name], default=str) for run in runs if name in run.settings]
        if len(values) < len(runs) and len(set(values)) == 1:
            found.add(name)
            notes.append(f"`{name}` is a setting in {len(values)} of {len(runs)} runs only: code versions differ.")
    return found


def _learned_overrides(run: Run) -> tuple[str, ...]:
    """Returns the overrides that influence what is learned, without the experiment. Numbers have their final values,
    because a run may have been resumed with more steps."""

    def final(override: str) -> str:
        value = run.leaves.get(override_key(override))
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return f"{override_key(override)}={value}" if is_number else override.lstrip("+")

    return tuple(sorted({final(override) for override in run.overrides if _is_learned(override_key(override))}))


def _name(groups: Sequence[Sequence[Run]], ignored: Collection[str]) -> list[Variant]:
    """Makes each group a variant with the overrides of the run that has the fewest, except those that all groups share.
    Groups that cannot have an override do not count: without punishment there is no `overlong.cache_tokens=4`."""
    named = []  # the fewest overrides that a run of each group has, and the experiments of the runs with these
    for group in groups:
        experiments: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for run in group:
            experiments[_learned_overrides(run)].add(run.choices.get("experiment", "custom"))
        named.append(min(experiments.items(), key=lambda item: (len(item[0]), item[0])))

    def cannot_have(run: Run, name: str) -> bool:  # the option that it chose of the config group lacks the setting
        return name.partition(".")[0] in run.choices and name not in run.leaves

    def shared(override: str) -> bool:
        pairs = zip(groups, named, strict=True)
        return all(override in kept or cannot_have(group[0], override_key(override)) for group, (kept, _) in pairs)

    return [
        Variant(
            experiments=tuple(sorted(names, key=lambda name: (len(name), name))),
            extras=tuple(override for override in kept if not shared(override)),
            runs=tuple(group),
            settings=_learned_settings(group[0], ignored),
        )
        for group, (kept, names) in zip(groups, named, strict=True)
    ]


def _rename_homonyms(variants: Sequence[Variant], notes: list[str]) -> list[Variant]:
    """Gives each variant a name of its own. Variants with the same overrides can have different settings if versions of
    the code differ: the largest keeps its name; up to three differing settings are added to the names of the others."""
    found: dict[str, list[Variant]] = defaultdict(list)
    for variant in sorted(variants, key=lambda variant: len(variant.runs), reverse=True):
        alike = found[variant.name]
        if alike:
            ours, theirs = alike[0].settings, variant.settings
            names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
            differing = [f"{name}={theirs.get(name, 'null')}" for name in names]
            variant = replace(variant, extras=(*variant.extras, *differing[:3]))
            notes.append(
                f"{variant.name}: has the same overrides as {alike[0].name}, but other settings: {' '.join(differing)}."
            )
        alike.append(variant)
    return [variant for alike in found.values() for variant in alike]


def _one_per_seed(runs: Sequence[Run], notes: list[str]) -> tuple[Run, ...]:
    """Keeps one run of each seed: a finished one if there is any, and of several the newest."""
    chosen: dict[Any, Run] = {}
    for run in sorted(runs, key=lambda run: (run.finished, run.changed, run.name), reverse=True):
        kept = chosen.setdefault(run.seed, run)
        if kept is not run:
            why = "newer" if kept.finished == run.finished else "finished"
            notes.append(f"{run.name}: left out; {kept.name} has the same settings and seed {run.seed}, and is {why}.")
    return tuple(chosen[seed] for seed in sorted(chosen))
