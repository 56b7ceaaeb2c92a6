"""The numbers that describe a finished run."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from dapo_lightning.study.held_out_sets import columns_of_sets
from dapo_lightning.study.runs import Run

END_SHARE, END_STEPS = 0.1, 3  # "the end" of training: this share of the DAPO steps, but at least this many
SECONDS = ["seconds/generate", "seconds/grade", "seconds/wait", "seconds/update"]
NAMES = (
    "avg", "avg_of_run", "pass", "truncated_held_out", "entropy", "truncated_training", "entropy_of_run",
    "truncated_of_run", "length_of_run", "tokens_per_useful_group", "useful_group_share", "minutes", "gradient_steps",
)  # fmt: skip


def measures(run: Run) -> dict[str, float | None]:
    """Returns the numbers of a finished run by name; those that were not measured are missing or NaN.

    avg, pass: held-out, after the last step. avg_of_run: avg over the whole run, that is the area under its curve
    divided by the number of DAPO steps; it shows who learns sooner. entropy (nats per token), truncated_training: means
    over the last steps of training; entropy_of_run, truncated_of_run, length_of_run (tokens): over all steps.
    useful_group_share: of all groups that were generated and not carried over. tokens_per_useful_group: tokens
    generated per useful group trained on. minutes: generating, grading, waiting for other ranks, and updating.
    Those of a set of `evaluation.sets` are called like its metrics.
    """
    after, steps = run.evaluations.loc[run.num_steps], run.metrics.dropna(subset="tokens/generated")
    is_complete = run.num_steps in steps.index
    end = steps.tail(max(END_STEPS, math.ceil(END_SHARE * len(steps)))) if is_complete else steps.head(0)
    summary = run.summary if run.summary.get("dapo_steps") == run.num_steps else {}  # not that of an earlier session
    tokens_per_useful_group, useful_share = _group_measures(steps, run.settings.get("num_prompts_per_step", math.nan))
    of_summary = pd.Series(summary.get("seconds", {}), dtype=float).add_prefix("seconds/")
    seconds = steps[SECONDS].sum(min_count=1) if of_summary.empty else of_summary.reindex(SECONDS)
    return {
        "avg": after.get(f"avg@{run.k}"),
        "avg_of_run": _mean_height(run.evaluations.get(f"avg@{run.k}")),
        "pass": after.get(f"pass@{run.k}"),
        "truncated_held_out": after.get("truncated"),
        "entropy": end["entropy"].mean(),
        "truncated_training": end["length/truncated"].mean(),
        "entropy_of_run": steps["entropy"].mean(),
        "truncated_of_run": steps["length/truncated"].mean(),
        "length_of_run": steps["length/mean"].mean(),
        "tokens_per_useful_group": tokens_per_useful_group,
        "useful_group_share": summary.get("useful_group_share", useful_share),
        "minutes": seconds.sum(min_count=1) / 60,
        "gradient_steps": summary.get("gradient_steps", end["steps/gradient"].max()),
        **{name: after[name] for of_set in columns_of_sets(after.index).values() for _, name, _ in of_set},
    }


def _mean_height(curve: pd.Series | None) -> float | None:
    """Returns the mean height of the line through a metric's evaluations, if these begin before the first DAPO step."""
    points = pd.Series(curve, dtype=float).dropna()
    if len(points) < 2 or points.index[0] != 0:
        return None
    return float(np.trapezoid(points, points.index) / points.index[-1])


def _group_measures(steps: pd.DataFrame, num_groups: float) -> tuple[float, float]:
    """Returns the tokens generated per useful group trained on, and the useful share of the groups used up.

    Static sampling trains on all groups, and their useful share counts. Dynamic sampling trains on useful groups only,
    and all of them count; `groups/useful` also includes the surplus, `groups/kept` does not. Groups that were carried
    over are useful, too. A step that does not report how many groups it trained on is assumed to have trained on
    `num_groups`.
    """
    known = steps.dropna(subset=["groups/useful", "groups/kept"])
    trained = known[known["groups/kept"] > 0]  # the other steps cost tokens, too
    num_trained = trained["groups/trained"].fillna(num_groups)
    shares = trained["groups/useful"] / trained["groups/kept"] + trained["groups/carried"].fillna(0.0)
    num_useful = (shares.clip(upper=1.0) * num_trained).sum()
    num_used_up = num_trained / trained["groups/kept"]
    useful_share = np.average(trained["groups/useful"], weights=num_used_up) if num_used_up.any() else math.nan
    return known["tokens/generated"].sum() / num_useful if num_useful else math.nan, useful_share
