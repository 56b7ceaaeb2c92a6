"""The paper's Table 1 as experiments: their order, which have the same settings, and which are compared."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from dapo_lightning.study.variants import Variant

DAPO = "dapo"
LADDER = (
    "ladder_0_grpo", "ladder_1_overlong_filter", "ladder_2_clip_higher", "ladder_3_soft_punishment",
    "ladder_4_token_level", "ladder_5_dynamic_sampling",
)  # fmt: skip
LEAVE_ONE_OUT = (
    "dapo_minus_clip_higher", "dapo_minus_token_level", "dapo_minus_dynamic_sampling", "dapo_minus_soft_punishment",
)  # fmt: skip
ORDER = (*LADDER, *LEAVE_ONE_OUT)
SAME_SETTINGS = (
    frozenset({"dapo", "ladder_5_dynamic_sampling"}),
    frozenset({"grpo", "ladder_0_grpo"}),
    frozenset({"ladder_4_token_level", "dapo_minus_dynamic_sampling"}),
)
TASK = ("policy", "data", "reward", "evaluation")  # accuracies can only be compared if these config groups agree


def roles(variant: Variant) -> frozenset[str]:
    """Returns the experiments that a variant was run as, and those with the same settings."""
    ours = frozenset(variant.experiments)
    return ours.union(*(same for same in SAME_SETTINGS if same & ours))


def canonical(variant: Variant) -> str:
    """Returns the same name for equal experiments."""
    return min(roles(variant), key=lambda name: (len(name), name))


def place(variant: Variant) -> int:
    """Returns the position in `ORDER` (the ladder, then leave-one-out); its length for all other experiments."""
    return min((ORDER.index(role) for role in roles(variant) if role in ORDER), default=len(ORDER))


def ladder_step(variant: Variant) -> int | None:
    """Returns the row of the paper's Table 1 that a variant corresponds to."""
    return number if (number := place(variant)) < len(LADDER) else None


def in_order(variants: Iterable[Variant]) -> list[Variant]:
    """Sorts variants by `place`; those with further overrides follow in the same order."""

    def key(variant: Variant) -> tuple[object, ...]:
        names = [extra.partition("=")[0] for extra in variant.extras]
        return [(name, variant.numbers.get(name, math.inf)) for name in names], place(variant), variant.name

    return sorted(variants, key=key)


def shown_in_figures(variants: Sequence[Variant]) -> dict[str, Variant]:
    """Returns the variants in the paper's figures by experiment. All have one task and the same overrides: those with
    which most of the paper's experiments were run, or none if several sets of overrides are equally common."""
    alike: dict[tuple[tuple[str, ...], str], list[Variant]] = defaultdict(list)
    for variant in variants:
        if place(variant) < len(ORDER):
            alike[variant.extras, json.dumps(_task(variant), sort_keys=True, default=str)].append(variant)
    by_extras = sorted(alike.values(), key=lambda group: group[0].extras)  # max takes the first of equals
    shown = max(by_extras, key=lambda group: (len(set(map(canonical, group))), not group[0].extras), default=[])
    found = {experiment: find(shown, experiment, shown[0].extras) for experiment in (DAPO, *ORDER) if shown}
    return {experiment: variant for experiment, variant in found.items() if variant}


def find(variants: Sequence[Variant], experiment: str, extras: tuple[str, ...] = ()) -> Variant | None:
    """Returns the variant of an experiment with exactly these overrides, preferably one that was run under its name."""
    found = [variant for variant in variants if experiment in roles(variant) and variant.extras == extras]
    return min(found, key=lambda variant: experiment not in variant.experiments, default=None)


def previous_step(variants: Sequence[Variant], variant: Variant) -> Variant | None:
    """Returns the ladder step before a variant, with the same overrides and on the same task."""
    number = ladder_step(variant)
    previous = find(variants, LADDER[number - 1], variant.extras) if number else None
    return previous if previous and _task(previous) == _task(variant) else None


def full_dapo(variants: Sequence[Variant], variant: Variant) -> Variant | None:
    """Returns full DAPO on the same task, with the overrides of a variant, or else without overrides; None for DAPO
    without overrides itself."""
    beside = find(variants, DAPO, variant.extras)
    full = find(variants, DAPO) if beside is None or beside is variant else beside
    return full if full and full is not variant and _task(full) == _task(variant) else None


def _task(variant: Variant) -> dict[str, Any]:
    settings = variant.settings.items()
    return {key: value for key, value in settings if key.partition(".")[0] in TASK and key != "evaluation.every"}
