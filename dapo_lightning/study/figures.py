"""Which figures of the paper a sweep can show, and with what in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dapo_lightning.study import ladder
from dapo_lightning.study.arms import Arm
from dapo_lightning.study.intervals import Estimate, estimate
from dapo_lightning.study.ladder import Role
from dapo_lightning.study.measures import values
from dapo_lightning.study.series import DAPO_STEPS, GRADIENT_STEPS, MINUTES, TOKENS, Axis
from dapo_lightning.utils.overrides import leaves

ACCURACY = ("validation/avg@k", "held-out accuracy (avg@k)")
ENTROPY = ("entropy", "entropy (nats per token)")
LENGTH = ("length/mean", "completion length (tokens)")
REWARD = ("reward/mean", "mean reward")
PROBABILITY = ("probability", "mean token probability")
CLIPPED_PROBABILITY = ("clip/upper_probability", "mean probability of\ntokens clipped from above")
ALL_CORRECT = ("groups/all_correct", "share of groups\nwith all completions correct")
AXES = (GRADIENT_STEPS, DAPO_STEPS, MINUTES)


@dataclass(frozen=True)
class Figure:
    """A row of panels for each metric, a column for each axis, a line for each arm, named by its role here."""

    file: str
    title: str
    metrics: tuple[tuple[str, str], ...]  # name, label with its unit
    roles: tuple[Role, ...]
    axes: tuple[Axis, ...] = AXES


@dataclass(frozen=True)
class Sweep:
    """Arms of one line differ in the value of one override only."""

    key: str
    lines: dict[str, tuple[tuple[float, Arm], ...]]  # what they share -> by value

    @property
    def file(self) -> str:
        return f"sweep_{self.key.replace('/', '.')}.png"

    def points(self, name: str, measure: str) -> list[tuple[float, Estimate]]:
        """Value of the override, and the measure over the seeds of the arm; arms without a finished run have none."""
        found = [(value, estimate(values(arm, measure))) for value, arm in self.lines[name]]
        return [(value, over_seeds) for value, over_seeds in found if over_seeds]


def paper_figures(arms: Sequence[Arm]) -> tuple[list[Figure], list[str]]:
    """The figures whose arms are there, and sentences on what is missing."""
    missing = _not_shown(arms)
    drawn = []
    for plan in PLANS:
        found = plan.chosen(arms)
        if found:
            drawn.append(Figure(plan.file, plan.title, plan.metrics, found, plan.axes))
        else:
            missing.append(f"figures/{plan.file} is left out: it takes runs of {plan.wanted}.")
    return drawn, missing


def _rungs(arms: Sequence[Arm]) -> tuple[Role, ...]:
    found = ladder.cast(arms, ladder.LADDER)
    return found if len(found) > 1 else ()


def _full_run(arms: Sequence[Arm]) -> tuple[Role, ...]:
    return ladder.cast(arms, [ladder.DAPO])


def _leave_one_out(arms: Sequence[Arm]) -> tuple[Role, ...]:
    full, left_out = _full_run(arms), ladder.cast(arms, ladder.LEAVE_ONE_OUT)
    return full + left_out if full and left_out else ()


@dataclass(frozen=True)
class Plan:
    """A figure before its arms are known: how they are chosen, and what to run where there are none."""

    file: str
    title: str
    metrics: tuple[tuple[str, str], ...]
    chosen: Callable[[Sequence[Arm]], tuple[Role, ...]]
    wanted: str
    axes: tuple[Axis, ...] = AXES


def _pair(file: str, title: str, metrics: tuple[tuple[str, str], ...], technique: str, axes: tuple[Axis, ...]) -> Plan:
    wanted = ", or of ".join(f"{with_it} and {without}" for with_it, without in ladder.PAIRS[technique])
    return Plan(file, title, metrics, lambda arms: ladder.pair(arms, technique), wanted, axes)


PLANS = (
    Plan(
        "accuracy.png",
        "Accuracy up the ladder of techniques (paper: Table 1)",
        (ACCURACY,),
        _rungs,
        "at least two rungs, ladder_0_grpo to ladder_5_dynamic_sampling",
    ),
    Plan(
        "accuracy_leave_one_out.png",
        "Accuracy of DAPO less one technique (not in the paper)",
        (ACCURACY,),
        _leave_one_out,
        "dapo and of one dapo_minus_... or more",
    ),
    _pair(
        "entropy_clip_higher.png",
        "With and without Clip-Higher (paper: Fig. 2)",
        (ACCURACY, ENTROPY),
        "clip_higher",
        AXES,
    ),
    _pair(
        "clipped_probability.png",
        "Which tokens the upper clip holds back (paper: Fig. 3a)",
        (CLIPPED_PROBABILITY,),
        "clip_higher",
        AXES,
    ),
    _pair(
        "all_correct.png",
        "Groups with nothing left to learn from (paper: Fig. 3b)",
        (ALL_CORRECT,),
        "dynamic_sampling",
        AXES,
    ),
    _pair(
        "token_level.png",
        "With and without the token-level loss (paper: Fig. 4)",
        (ENTROPY, LENGTH),
        "token_level",
        AXES,
    ),
    _pair(
        "overlong.png",
        "With and without handling of overlong completions (paper: Fig. 5)",
        (ACCURACY, ENTROPY),
        "overlong",
        AXES,
    ),
    _pair(
        "dynamic_sampling.png",
        "With and without dynamic sampling (paper: Fig. 6)",
        (ACCURACY,),
        "dynamic_sampling",
        (*AXES, TOKENS),
    ),
    Plan(
        "full_run.png",
        "The full run (paper: Fig. 7)",
        (LENGTH, REWARD, ENTROPY, PROBABILITY),
        _full_run,
        "dapo or ladder_5_dynamic_sampling",
    ),
)


def _not_shown(arms: Sequence[Arm]) -> list[str]:
    """Which arms the paper's figures show, where there are others for the same experiments."""
    shown = ladder.drawn(arms)
    if not shown:
        return []
    there, extras = {ladder.canonical(arm) for arm in shown}, shown[0].extras
    notes = [f"The paper's figures show the arms with {' '.join(extras)}."] if extras else []
    others = [arm for arm in arms if arm not in shown and arm.extras == extras]
    studied = [arm.name for arm in others if not ladder.roles(arm).isdisjoint(ladder.STUDIED)]
    if studied:
        notes.append(
            f"The paper's figures leave out {', '.join(studied)}: run on another task than {', '.join(sorted(there))}."
        )
    return notes


def sweeps(arms: Sequence[Arm]) -> list[Sweep]:
    """For every numeric override that arms differ in: those that are alike but for it, if there are two values."""
    keys = sorted({name for arm in arms for name, _ in _numeric(arm)})
    found = []
    for key in keys:
        lines: dict[str, dict[float, Arm]] = defaultdict(dict)
        for arm in arms:
            value = _value(arm, key)
            rest = (ladder.canonical(arm), *(extra for extra in arm.extras if not extra.startswith(f"{key}=")))
            if value is not None:
                lines[" ".join(rest)].setdefault(value, arm)
        several = {name: by_value for name, by_value in lines.items() if len(by_value) > 1}
        whole = {name: tuple(sorted(by_value.items(), key=lambda one: one[0])) for name, by_value in several.items()}
        if whole:
            found.append(Sweep(key, whole))
    return found


def _numeric(arm: Arm) -> list[tuple[str, float]]:
    found = []
    for extra in arm.extras:
        name, _, text = extra.partition("=")
        try:
            found.append((name, float(text)))
        except ValueError:
            continue
    return found


def _value(arm: Arm, key: str) -> float | None:
    """The value that an arm has, by its overrides or by default."""
    default = leaves(arm.example.settings or {}).get(key)
    return dict(_numeric(arm)).get(key, default if isinstance(default, int | float) else None)
