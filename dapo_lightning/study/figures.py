"""The figures that a sweep can show, and the variants in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dapo_lightning.study.curves import DAPO_STEPS, GRADIENT_STEPS, MINUTES, TOKENS, Axis
from dapo_lightning.study.ladder import DAPO, LADDER, LEAVE_ONE_OUT, ORDER, canonical, place, shown_in_figures
from dapo_lightning.study.variants import Variant
from dapo_lightning.utils.held_out import accuracies_of_sets

# name of the metric, label with its unit
ACCURACY = ("validation/avg@k", "held-out accuracy (avg@k)")
ENTROPY = ("entropy", "entropy (nats per token)")
LENGTH = ("length/mean", "completion length (tokens)")
REWARD = ("reward/mean", "mean reward")
PROBABILITY = ("probability", "mean token probability")
CLIPPED_PROBABILITY = ("clip/upper_probability", "mean probability of\ntokens clipped from above")
ALL_CORRECT = ("groups/all_correct", "share of groups\nwith all completions correct")
AXES = (GRADIENT_STEPS, DAPO_STEPS, MINUTES)
PAIRS = {  # technique -> (with it, without it): full DAPO and DAPO without it, or the ladder steps after and before it
    "clip_higher": ((DAPO, "dapo_minus_clip_higher"), (LADDER[2], LADDER[1])),
    "token_level": ((DAPO, "dapo_minus_token_level"), (LADDER[4], LADDER[3])),
    "overlong": ((DAPO, "dapo_minus_soft_punishment"), (LADDER[1], LADDER[0]), (LADDER[3], LADDER[2])),
    "dynamic_sampling": ((DAPO, "dapo_minus_dynamic_sampling"), (LADDER[5], LADDER[4])),
}


@dataclass(frozen=True)
class Figure:
    """A row of panels for each metric, a column for each axis, and a line for each variant."""

    file: str
    title: str
    metrics: tuple[tuple[str, str], ...]  # names and labels
    choices: tuple[tuple[str, ...], ...]  # sets of experiments to show, in order of preference
    axes: tuple[Axis, ...] = AXES

    def choose(self, shown: Mapping[str, Variant]) -> dict[str, Variant]:
        """Returns the variants to draw, by experiment: those of the first set of which at least two were run, and DAPO
        if it is one of them."""
        for experiments in self.choices:
            found = {experiment: shown[experiment] for experiment in experiments if experiment in shown}
            if len(found) >= min(2, len(experiments)) and (DAPO in found or DAPO not in experiments):
                return found
        return {}

    @property
    def needed(self) -> str:
        return ", or of ".join(
            " and ".join(experiments) if len(experiments) < 3 else f"at least two of {', '.join(experiments)}"
            for experiments in self.choices
        )


# fmt: off
FIGURES = (
    Figure("accuracy.png", "Accuracy up the ladder of techniques (paper: Table 1)", (ACCURACY,), (LADDER,)),
    Figure("accuracy_leave_one_out.png", "Accuracy of DAPO without one technique (not in the paper)",
           (ACCURACY,), ((DAPO, *LEAVE_ONE_OUT),)),
    Figure("entropy_clip_higher.png", "With and without Clip-Higher (paper: Fig. 2)",
           (ACCURACY, ENTROPY), PAIRS["clip_higher"]),
    Figure("clipped_probability.png", "Tokens that the upper clip holds back (paper: Fig. 3a)",
           (CLIPPED_PROBABILITY,), PAIRS["clip_higher"]),
    Figure("all_correct.png", "Groups with nothing left to learn from (paper: Fig. 3b)",
           (ALL_CORRECT,), PAIRS["dynamic_sampling"]),
    Figure("token_level.png", "With and without the token-level loss (paper: Fig. 4)",
           (ENTROPY, LENGTH), PAIRS["token_level"]),
    Figure("overlong.png", "With and without handling of overlong completions (paper: Fig. 5)",
           (ACCURACY, ENTROPY), PAIRS["overlong"]),
    Figure("dynamic_sampling.png", "With and without dynamic sampling (paper: Fig. 6)",
           (ACCURACY,), PAIRS["dynamic_sampling"], (*AXES, TOKENS)),
    Figure("full_run.png", "The full run (paper: Fig. 7)", (LENGTH, REWARD, ENTROPY, PROBABILITY), ((DAPO,),)),
)
# fmt: on
COMPARISON = Figure(
    "comparison.png", "All variants (not in the paper)", (ACCURACY, ENTROPY), (), (DAPO_STEPS, TOKENS, MINUTES)
)


def of_held_out_sets(variants: Sequence[Variant]) -> Figure | None:
    """Returns the figure of the sets of `evaluation.sets`, if there are any."""
    names = {name: None for variant in variants for run in variant.runs for name in run.evaluations}
    metrics = tuple((f"validation/{name}/{avg}", f"{avg} on {name}") for name, avg in accuracies_of_sets(names))
    title = "Held-out sets of evaluation.sets (not in the paper)"
    return Figure("held_out_sets.png", title, metrics, (), (DAPO_STEPS,)) if metrics else None


def describe_missing(variants: Sequence[Variant]) -> list[str]:
    """Returns sentences about what the paper's figures leave out, and which figures and ladder steps are missing."""
    shown, notes = shown_in_figures(variants), []
    extras = next((variant.extras for variant in shown.values()), ())
    if extras:
        notes.append(f"The paper's figures show the variants with {' '.join(extras)}.")
    others = [variant for variant in variants if variant not in shown.values() and variant.extras == extras]
    if hidden := [variant.name for variant in others if place(variant) < len(ORDER)]:
        drawn = ", ".join(sorted({canonical(variant) for variant in shown.values()}))
        notes.append(f"The paper's figures leave out {', '.join(hidden)}: the task is not that of {drawn}.")
    steps = [experiment for experiment in LADDER if experiment not in shown]
    if 0 < len(steps) <= len(LADDER) - 2:
        notes.append(f"Steps of the ladder that were not run: {', '.join(steps)}.")
    missing = [figure for figure in FIGURES if not figure.choose(shown)]
    return notes + [f"figures/{figure.file} is left out: it needs runs of {figure.needed}." for figure in missing]


Lines = dict[str, dict[float, Variant]]


def sweeps(variants: Sequence[Variant]) -> dict[str, Lines]:
    """Returns, for every numeric override of which otherwise equal variants have at least two values, those variants by
    value. A line is a set of variants that agree in everything else, which is its name."""
    found = {}
    for key in sorted({key for variant in variants for key in variant.numbers}):
        lines: Lines = defaultdict(dict)
        for variant in variants:
            default = variant.settings.get(key)
            number = variant.numbers.get(key, default if isinstance(default, int | float) else None)
            if number is not None:
                others = [extra for extra in variant.extras if not extra.startswith(f"{key}=")]
                lines[" ".join([canonical(variant), *others])].setdefault(number, variant)
        found[key] = {name: dict(sorted(line.items())) for name, line in lines.items() if len(line) > 1}
    return {key: lines for key, lines in found.items() if lines}
