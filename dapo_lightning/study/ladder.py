"""The paper's Table 1 as experiments, what is compared with what, and which experiments are one and the same."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from dapo_lightning.study.arms import Arm, settings_of

Role = tuple[str, Arm]
"""An experiment, and the arm that is it: run under this name, or one of the same settings."""

DAPO = "dapo"
LADDER = (
    "ladder_0_grpo",
    "ladder_1_overlong_filter",
    "ladder_2_clip_higher",
    "ladder_3_soft_punishment",
    "ladder_4_token_level",
    "ladder_5_dynamic_sampling",
)
LEAVE_ONE_OUT = (
    "dapo_minus_clip_higher",
    "dapo_minus_token_level",
    "dapo_minus_dynamic_sampling",
    "dapo_minus_soft_punishment",
)
STUDIED = (DAPO, *LADDER, *LEAVE_ONE_OUT)
SAME_SETTINGS = (
    frozenset({"dapo", "ladder_5_dynamic_sampling"}),
    frozenset({"grpo", "ladder_0_grpo"}),
    frozenset({"ladder_4_token_level", "dapo_minus_dynamic_sampling"}),
)
TASK = ("policy", "data", "reward", "evaluation")  # config groups without which accuracies cannot be compared
PAIRS = {  # technique -> (with it, without it): the full run less one technique, or the rungs around it
    "clip_higher": ((DAPO, "dapo_minus_clip_higher"), (LADDER[2], LADDER[1])),
    "token_level": ((DAPO, "dapo_minus_token_level"), (LADDER[4], LADDER[3])),
    "overlong": ((DAPO, "dapo_minus_soft_punishment"), (LADDER[1], LADDER[0]), (LADDER[3], LADDER[2])),
    "dynamic_sampling": ((DAPO, "dapo_minus_dynamic_sampling"), (LADDER[5], LADDER[4])),
}


def roles(arm: Arm) -> frozenset[str]:
    """The experiments that an arm is: those it was run as, and those of the same settings."""
    ours = frozenset(arm.experiments)
    return ours.union(*(same for same in SAME_SETTINGS if same & ours))


def canonical(arm: Arm) -> str:
    """One name for the same settings, whatever an arm was run as."""
    return min(roles(arm), key=lambda name: (len(name), name))


def rung(arm: Arm) -> int | None:
    """Where an arm stands in the paper's Table 1."""
    return next((number for number, experiment in enumerate(LADDER) if experiment in roles(arm)), None)


def in_order(arms: Iterable[Arm]) -> list[Arm]:
    """The ladder, leave-one-out, others; then, alike, arms with overrides."""

    def place(arm: Arm) -> tuple[Any, ...]:
        number = rung(arm)
        left_out = [index for index, experiment in enumerate(LEAVE_ONE_OUT) if experiment in roles(arm)]
        where = (0, number) if number is not None else (1, left_out[0]) if left_out else (2, 0)
        return _by_value(arm.extras), where, arm.name

    return sorted(arms, key=place)


def _by_value(extras: tuple[str, ...]) -> list[tuple[str, float, str]]:
    """4 before 32."""
    found = []
    for extra in extras:
        name, _, text = extra.partition("=")
        try:
            found.append((name, float(text), ""))
        except ValueError:
            found.append((name, math.inf, text))
    return found


def drawn(arms: Sequence[Arm]) -> list[Arm]:
    """The arms that are drawn as the paper's: of one task and with the same overrides, those that most of its
    experiments were run with; of several, those with none."""
    alike: dict[tuple[tuple[str, ...], str], list[Arm]] = defaultdict(list)
    for arm in arms:
        if not roles(arm).isdisjoint(STUDIED):
            alike[arm.extras, json.dumps(_task(arm), sort_keys=True, default=str)].append(arm)
    by_extras = sorted(alike.values(), key=lambda group: group[0].extras)  # max takes the first of equals
    return max(by_extras, key=lambda group: (len({canonical(arm) for arm in group}), not group[0].extras), default=[])


def find(arms: Sequence[Arm], experiment: str, extras: tuple[str, ...] = ()) -> Arm | None:
    """The arm of an experiment with just these overrides; if it has two, the one that was run under this name."""
    found = [arm for arm in arms if experiment in roles(arm) and arm.extras == extras]
    return next((arm for arm in found if experiment in arm.experiments), found[0] if found else None)


def rung_before(arms: Sequence[Arm], arm: Arm) -> Arm | None:
    """The rung below, with the same overrides. Nothing if that was run on another task."""
    number = rung(arm)
    below = find(arms, LADDER[number - 1], arm.extras) if number else None
    return below if below is not None and _task(below) == _task(arm) else None


def full_dapo(arms: Sequence[Arm], arm: Arm) -> Arm | None:
    """All of DAPO with the overrides of this arm; if this is that already, or there is none, as the paper has it.
    Nothing if that was run on another task."""
    beside = find(arms, DAPO, arm.extras)
    full = find(arms, DAPO) if beside is None or beside is arm else beside
    return None if full is None or full is arm or _task(full) != _task(arm) else full


def _task(arm: Arm) -> dict[str, Any]:
    """What is learnt and how it is measured, as far as it is known."""
    settings = settings_of(arm.example)
    how_often = "evaluation.every"
    return {name: value for name, value in settings.items() if name.split(".")[0] in TASK and name != how_often}


def cast(arms: Sequence[Arm], experiments: Iterable[str]) -> tuple[Role, ...]:
    """The arms that there are for some experiments, of those that are drawn."""
    shown = drawn(arms)
    found = [(experiment, find(shown, experiment, shown[0].extras if shown else ())) for experiment in experiments]
    return tuple((experiment, arm) for experiment, arm in found if arm)


def pair(arms: Sequence[Arm], technique: str) -> tuple[Role, ...]:
    """An arm with a technique and one without it, alike but for that; nothing if there are no such two."""
    found = [cast(arms, experiments) for experiments in PAIRS[technique]]
    return next((both for both in found if len(both) == 2), ())


def missing_rungs(arms: Sequence[Arm]) -> list[str]:
    """Rungs that were not run, if at least two were."""
    there = {experiment for experiment, _ in cast(arms, LADDER)}
    missing = [experiment for experiment in LADDER if experiment not in there]
    return missing if len(missing) <= len(LADDER) - 2 else []
