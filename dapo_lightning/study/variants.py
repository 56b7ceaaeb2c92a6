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

# Settings on which nothing depends that is learnt: where a run is, what it writes, and the machine that it runs on.
NOT_LEARNT = frozenset(
    {"seed", "resume", "run_folder", "checkpoint", "mode", "logger", "callbacks", "trainer", "hydra", "experiment"}
)


@dataclass(frozen=True, eq=False)
class Variant:
    """Runs with the same settings, one per seed.

    Args:
        experiments: the experiments that it was run as, several if they have the same settings.
        extras: overrides beside the experiment that not all variants of the sweep share.
        runs: sorted by seed.
        settings: what was learnt depends on these.
    """

    experiments: tuple[str, ...]
    extras: tuple[str, ...]
    runs: tuple[Run, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

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
        return pd.DataFrame({run.seed: measures(run) for run in self.finished}, index=NAMES, dtype=float)


def completions_per_prompt(variants: Iterable[Variant]) -> list[int]:
    """Returns the numbers of completions per held-out prompt of all runs."""
    return sorted({run.k for variant in variants for run in variant.runs if run.k})


def at_k(title: str, variants: Iterable[Variant]) -> str:
    """Replaces k by the number of completions per held-out prompt, if that is the same everywhere."""
    ks = completions_per_prompt(variants)
    return title.replace("@k", f"@{ks[0]}") if len(ks) == 1 else title


def group_by_settings(runs: Iterable[Run]) -> tuple[list[Variant], list[str]]:
    """Returns the variants of a sweep, and notes on runs that are hard to assign.

    Runs are compared by their resolved settings, not by the overrides that led to them. A run whose config.yaml is lost
    joins the variant with the same options if there is exactly one; otherwise it is left out.
    """
    runs, notes = list(runs), list[str]()
    known = [run for run in runs if run.settings]
    ignored = NOT_LEARNT | _settings_of_some(known, notes)
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in known:
        groups[json.dumps(learnt_settings(run, ignored), sort_keys=True, default=str)].append(run)
    for run in [run for run in runs if not run.settings]:
        alike = [group for group in groups.values() if run.choices and run.choices in [r.choices for r in group]]
        if len(alike) == 1:
            alike[0].append(run)
            notes.append(f"{run.name}: its variant is guessed from its options, because its settings are lost.")
        else:
            reason = "several variants have its options" if alike else "no other run has its options"
            notes.append(f"{run.name}: left out, because its settings are lost and {reason}.")
    variants = _rename_homonyms(_name(list(groups.values()), ignored), notes)
    return [replace(variant, runs=_one_per_seed(variant.runs, notes)) for variant in variants], notes


def learnt_settings(run: Run, ignored: Collection[str]) -> dict[str, Any]:
    """Returns the settings that decide what a run learns. A seed that follows the run's seed is not among them, unless
    it was set by hand; neither is the place of a file."""
    by_hand = {override_key(override) for override in run.overrides}
    folder = str(run.settings["run_folder"])

    def without_place(leaf: Any) -> Any:
        if isinstance(leaf, str) and leaf.startswith("/"):
            return leaf.removeprefix(folder) if leaf.startswith(folder) else PurePath(leaf).name
        return leaf

    return {
        name: without_place(leaf)
        for name, leaf in run.leaves.items()
        if _is_learnt(name, ignored) and (not name.endswith(".seed") or name in by_hand)
    }


def _is_learnt(name: str, ignored: Collection[str] = NOT_LEARNT) -> bool:
    """Returns whether numbers depend on a setting; of those of the trainer, they only depend on its precision."""
    return name == "trainer.precision" or name.partition(".")[0] not in ignored


def _settings_of_some(runs: Sequence[Run], notes: list[str]) -> set[str]:
    """Returns the top-level settings that some runs do not have and the others agree on: those are versions of the code
    of which one knows the setting and the other does not."""
    found = set()
    for name in sorted({name for run in runs for name in run.settings} - NOT_LEARNT):
        values = [json.dumps(run.settings[name], default=str) for run in runs if name in run.settings]
        if len(values) < len(runs) and len(set(values)) == 1:
            found.add(name)
            notes.append(f"`{name}` is a setting in {len(values)} of {len(runs)} runs only: code versions differ.")
    return found


def _learnt_overrides(run: Run) -> tuple[str, ...]:
    """Returns the overrides that decide what is learnt, without the experiment. Numbers are those that were valid in
    the end, because a run may have been resumed with more steps."""

    def as_valid(override: str) -> str:
        value = run.leaves.get(override_key(override))
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return f"{override_key(override)}={value}" if is_number else override.lstrip("+")

    return tuple(sorted({as_valid(override) for override in run.overrides if _is_learnt(override_key(override))}))


def _name(groups: Sequence[Sequence[Run]], ignored: Collection[str]) -> list[Variant]:
    """Names each group by the run with the fewest overrides, without those that all groups share which can have them:
    a variant without punishment cannot have `overlong.cache_tokens=4`."""
    overrides = [{run.name: _learnt_overrides(run) for run in group if run.settings} for group in groups]
    fewest = [min(of_group.values(), key=lambda kept: (len(kept), kept)) for of_group in overrides]

    def cannot_have(run: Run, name: str) -> bool:  # the option that it chose of the config group lacks the setting
        return name.partition(".")[0] in run.choices and name not in run.leaves

    shared = {
        override
        for override in set().union(*fewest)
        if all(
            override in kept or cannot_have(group[0], override_key(override))
            for group, kept in zip(groups, fewest, strict=True)
        )
    }
    variants = []
    for group, of_group, kept in zip(groups, overrides, fewest, strict=True):
        experiments = {run.choices.get("experiment", "custom") for run in group if of_group.get(run.name) == kept}
        shortest_first = tuple(sorted(experiments, key=lambda name: (len(name), name)))
        extras = tuple(override for override in kept if override not in shared)
        variants.append(Variant(shortest_first, extras, tuple(group), learnt_settings(group[0], ignored)))
    return variants


def _rename_homonyms(variants: Sequence[Variant], notes: list[str]) -> list[Variant]:
    """Gives each variant a name of its own. Of variants with the same overrides but other settings, as different
    versions of the code make them, the largest keeps its name; up to three differing settings are added to the others.
    """
    found: dict[str, list[Variant]] = defaultdict(list)
    for variant in sorted(variants, key=lambda variant: len(variant.runs), reverse=True):
        alike = found[variant.name]
        if alike:
            ours, theirs = alike[0].settings, variant.settings
            names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
            differing = tuple(f"{name}={theirs.get(name, 'null')}" for name in names)
            variant = replace(variant, extras=(*variant.extras, *differing[:3]))
            notes.append(
                f"{variant.name}: has the same overrides as {alike[0].name}, but other settings: {' '.join(differing)}."
            )
        alike.append(variant)
    return [variant for alike in found.values() for variant in alike]


def _one_per_seed(runs: Sequence[Run], notes: list[str]) -> tuple[Run, ...]:
    """Of the runs with the same seed, keeps the finished one; of several, the newest."""
    chosen: dict[Any, Run] = {}
    for run in sorted(runs, key=lambda run: (run.finished, run.changed, run.name), reverse=True):
        kept = chosen.setdefault(run.seed, run)
        if kept is not run:
            why = "newer" if kept.finished == run.finished else "finished"
            notes.append(f"{run.name}: left out; {kept.name} has the same settings and seed {run.seed}, and is {why}.")
    return tuple(chosen[seed] for seed in sorted(chosen))
