"""The runs of a sweep -> the data of its page: the tables and figures of the study, and the runs side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from dapo_lightning.study.anomalies import describe_runs, missing_seeds
from dapo_lightning.study.curves import Axis, curve
from dapo_lightning.study.figures import FIGURES, Figure, describe_missing, of_held_out_sets
from dapo_lightning.study.ladder import in_order, shown_in_figures
from dapo_lightning.study.report import cells, results_table, tables
from dapo_lightning.study.runs import Run, describe_failed_starts, find_runs, read_run
from dapo_lightning.study.variants import Variant, at_k, completions_per_prompt, group_by_settings
from dapo_lightning.utils.held_out import accuracies_of_sets

ALL = "every variant"


def sweep_data(sweep: Path, output: Path) -> dict[str, Any]:
    """Returns the data of a sweep's page.

    Args:
        output: the folder of the page. It links the pages of runs below this folder, so that the folder can be copied.

    Raises:
        NoRunsError: if there is no run.
    """
    folders = find_runs(sweep)
    found = [read_run(folder, sweep) for folder in folders]
    places = dict(zip((run.name for run in found), folders, strict=True))
    runs = [run for run in found if run.settings.get("mode") != "evaluate"]
    grouped, on_grouping = group_by_settings(runs)
    variants = in_order(grouped)
    results = results_table(variants)
    notes = [*describe_failed_starts(sweep), *on_grouping, *describe_runs(runs), *missing_seeds(variants)]
    k = ", ".join(map(str, completions_per_prompt(variants))) or "unknown"
    finished = sum(run.finished for run in runs)
    return {
        "kind": "sweep",
        "title": f"sweep · {sweep.resolve().name}",
        "name": sweep.resolve().name,
        "folder": str(sweep),
        "facts": [["variants", str(len(variants))], ["runs", str(len(runs))], ["finished", str(finished)],
                  ["completions per held-out prompt", k]],
        "warnings": notes,
        "figure_notes": describe_missing(variants),
        "tables": [
            {
                "title": title,
                "columns": ["variant", "ladder step", "seeds", *(at_k(head, variants) for head, _, _ in columns)],
                "rows": [cells(row, columns) for _, row in results.iterrows()],
            }
            for title, columns in tables(results).items()
        ],
        "figures": _figures(variants),
        "runs": [_run(run, places[run.name], output, runs) for run in runs],
    }  # fmt: skip


def _figures(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """Returns the paper's figures, as far as their variants were run, and their metrics for all variants, which come
    first if the paper's are less than half of them. The first figure and that of all variants also show the sets of
    `evaluation.sets`."""
    shown = shown_in_figures(variants)
    chosen = [(figure, found) for figure in FIGURES if (found := figure.choose(shown))]
    everything = {variant.name: variant for variant in variants}
    metrics = tuple(dict.fromkeys(metric for figure in FIGURES for metric in figure.metrics))
    every = Figure("", ALL, metrics, (), FIGURES[0].axes[1:2])
    of_sets = [figure for figure in [of_held_out_sets(variants)] if figure]
    is_ladder = bool(chosen) and 2 * len(chosen[0][1]) >= len(variants)
    ordered = [*chosen, (every, everything)] if is_ladder else [(every, everything), *chosen]
    return [
        _figure([figure, *(of_sets if figure in (ordered[0][0], every) else [])], found) for figure, found in ordered
    ]


def _figure(figures: Sequence[Figure], found: dict[str, Variant]) -> dict[str, Any]:
    charts = [
        {"title": at_k(label.replace("\n", " "), found.values()), "xlabel": axis.label, "lines": lines}
        for figure in figures
        for metric, label in figure.metrics
        for axis in figure.axes
        if (lines := [_line(name, variant, metric, axis) for name, variant in found.items()])
        and any(line["points"] for line in lines)
    ]
    return {"title": figures[0].title, "names": list(found), "charts": charts}


def _line(name: str, variant: Variant, metric: str, axis: Axis) -> dict[str, Any]:
    points = curve(variant, metric, axis)
    return {"label": name, "points": points[["x", "mean", "low", "high"]].astype(float).round(6).to_numpy().tolist()}


def _run(run: Run, folder: Path, output: Path, runs: Sequence[Run]) -> dict[str, Any]:
    page = Path(os.path.relpath(folder / "report.html", output))
    is_near = ".." not in page.parts and (folder / "report.html").is_file()
    metrics = run.metrics.dropna(axis=1, how="all").select_dtypes("number")
    names = {name for other in runs for name in other.leaves}
    places = ("run_folder", "logger", "callbacks", "resume", "hydra", "commits")
    differing = sorted(
        name for name in names
        if name.partition(".")[0] not in places and len({str(other.leaves.get(name)) for other in runs}) > 1
        and not name.endswith("_target_")
    )  # fmt: skip
    chosen = sorted({group for other in runs for group in other.choices})
    options = {
        group: run.choices.get(group, "–") for group in chosen
        if len({other.choices.get(group) for other in runs}) > 1
    }  # fmt: skip
    of_sets = {f"{name} {avg}": f"{name}/{avg}" for name, avg in accuracies_of_sets(run.evaluations)}
    return {
        "name": run.name,
        "state": "finished" if run.finished else f"step {run.steps_done} of {run.num_steps or '?'}",
        "accuracies": {
            title: float(values.iloc[-1])
            for title, name in ({"avg@k": f"avg@{run.k}"} | of_sets).items()
            if len(values := run.evaluations.get(name, pd.Series(dtype=float)).dropna())
        },
        "page": page.as_posix() if is_near else None,
        "steps": [int(step) for step in metrics.index],
        "metrics": {
            name: [None if pd.isna(value) else float(f"{value:.5g}") for value in metrics[name]] for name in metrics
        },
        "differs": options | {name: str(run.leaves.get(name, "–")) for name in differing},
    }
