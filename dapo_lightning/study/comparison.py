"""Compares variants with one of them: accuracy at equal steps, tokens and minutes, and stability over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from dapo_lightning.study.curves import MINUTES, TOKENS, Axis
from dapo_lightning.study.intervals import intervals
from dapo_lightning.study.measures import END_STEPS
from dapo_lightning.study.runs import Run
from dapo_lightning.study.variants import Variant, at_k
from dapo_lightning.utils.table import table

LEARNED, COLLAPSED = 0.1, 0.25
READING = f"""\
The first table gives held-out avg@k after the last DAPO step, over the run (the mean height of the curve), and at equal
numbers of generated tokens and minutes: the medians of the totals of {{baseline}}. Between evaluations, avg@k is
interpolated; a run that ends earlier keeps its last value. Minutes are those of generating, grading and updating, as
measured; other work on the machine lengthens them. Differences to {{baseline}} are paired over seeds; bold: the 95 %
interval excludes zero.

A seed has learned if its avg@k rose by more than {LEARNED}. A seed has collapsed if it has not learned and its entropy
over the last {END_STEPS} steps is below {COLLAPSED:.0%} of that of the first step. Memory is the peak of the process by
the end of the first run of each variant; the process may have done other runs before."""

Measure = Callable[[Run], float]


class BaselineError(ValueError):
    """There is no single variant to compare with."""


def find_baseline(variants: Sequence[Variant], experiment: str) -> Variant:
    """Returns the variant of an experiment.

    Raises:
        BaselineError: unless exactly one variant of this experiment has finished runs.
    """
    found = [variant for variant in variants if experiment in variant.experiments and variant.finished]
    if len(found) != 1:
        names = ", ".join(variant.name for variant in found or variants)
        raise BaselineError(f"--against {experiment}: needs exactly one variant of it with finished runs, of {names}.")
    return found[0]


def compare(variants: Sequence[Variant], baseline: Variant) -> str:
    """Returns two tables with a row per variant as Markdown, and how to read them."""
    finished = [variant for variant in variants if variant.finished]
    tokens, minutes = (_median_total(baseline, axis) for axis in (TOKENS, MINUTES))
    columns: dict[str, Measure] = {
        "avg@k at the end": _last,
        "over the run": _mean_height,
        f"at {tokens:,.0f} thousand tokens": lambda run: _avg_at(run, TOKENS, tokens),
        f"at {minutes:.2f} minutes": lambda run: _avg_at(run, MINUTES, minutes),
    }
    header = ["variant", "seeds"] + [title for column in columns for title in (column, f"- {baseline.experiments[0]}")]
    accuracy = [
        [variant.name, len(variant.finished)]
        + [cell for measure in columns.values() for cell in _against(variant, baseline, measure)]
        for variant in finished
    ]
    stability = [_stability(variant) for variant in finished]
    return "\n\n".join(
        [
            f"## Against {baseline.name}",
            table([at_k(title, variants) for title in header], accuracy),
            table([at_k(title, variants) for title in STABILITY], stability),
            READING.format(baseline=baseline.experiments[0]),
        ]
    )


STABILITY = (
    "variant", "avg@k of the worst seed", "of the best", "learned", "collapsed", "entropy, first step", "last steps",
    "thousand tokens", "minutes", "memory, MB",
)  # fmt: skip


def _stability(variant: Variant) -> list[object]:
    runs = variant.finished
    last = [_last(run) for run in runs]
    has_learned = [_last(run) - _avg(run).iloc[0] > LEARNED for run in runs]
    first, end = [_entropies(run).iloc[0] for run in runs], [_entropies(run).tail(END_STEPS).mean() for run in runs]
    collapsed = sum(
        not learned and after < COLLAPSED * before
        for learned, before, after in zip(has_learned, first, end, strict=True)
    )
    totals = [np.median([axis.positions(run.metrics).iloc[-1] for run in runs]) for axis in (TOKENS, MINUTES)]
    memory = runs[0].metrics.get("memory/peak_mb", pd.Series(dtype=float)).max()
    return [
        variant.name, f"{min(last):.3f}", f"{max(last):.3f}", f"{sum(has_learned)} of {len(runs)}",
        f"{collapsed} of {len(runs)}", f"{np.mean(first):.3f}", _with_interval(pd.Series(end), "{:.3f}"),
        f"{totals[0]:,.0f}", f"{totals[1]:.2f}", f"{memory:,.0f}",
    ]  # fmt: skip


def _against(variant: Variant, baseline: Variant, measure: Measure) -> tuple[str, str]:
    """Returns the mean of a measure and its paired difference to the baseline, with their intervals."""
    ours, theirs = (pd.Series({run.seed: measure(run) for run in of.finished}) for of in (variant, baseline))
    difference = "" if variant is baseline else _with_interval((ours - theirs).dropna(), "{:+.3f}", bold=True)
    return _with_interval(ours, "{:.3f}"), difference


def _with_interval(values: pd.Series, form: str, bold: bool = False) -> str:
    found = intervals(values.to_frame().T).iloc[0]
    if pd.isna(found["half_width"]):
        return form.format(found["mean"])
    text = f"{form.format(found['mean'])} ± {form.replace('+', '').format(found['half_width'])}"
    return f"**{text}**" if bold and abs(found["mean"]) > found["half_width"] else text


def _avg(run: Run) -> pd.Series:
    return run.evaluations[f"avg@{run.k}"].dropna()


def _last(run: Run) -> float:
    return float(_avg(run).iloc[-1])


def _mean_height(run: Run) -> float:
    curve = _avg(run)
    return float(np.trapezoid(curve, curve.index) / (curve.index[-1] - curve.index[0]))


def _avg_at(run: Run, axis: Axis, amount: float) -> float:
    """Returns avg@k by the time that a run has used an amount, interpolated between evaluations."""
    curve, positions = _avg(run), axis.positions(run.metrics)
    return float(np.interp(amount, positions.reindex(curve.index, fill_value=0.0), curve))


def _median_total(variant: Variant, axis: Axis) -> float:
    return float(np.median([axis.positions(run.metrics).iloc[-1] for run in variant.finished]))


def _entropies(run: Run) -> pd.Series:
    return run.metrics["entropy"].dropna()
