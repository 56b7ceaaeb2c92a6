"""Draws figures, in colours that colour-blind people can distinguish and that a variant keeps in all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from dapo_lightning.study.curves import curve
from dapo_lightning.study.figures import Figure, Lines
from dapo_lightning.study.intervals import intervals
from dapo_lightning.study.ladder import LADDER, ORDER, in_order, place
from dapo_lightning.study.variants import Variant, at_k

# Okabe and Ito (2008) as far as it goes, Tol's "muted" for the rest; first the paper's variants in their order
COLOURS = (
    "#777777", "#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#0072B2", "#D55E00", "#882255", "#999933", "#000000",
)  # fmt: skip
OTHERS = ("#332288", "#CC6677", "#44AA99", "#AA4499", "#DDAA33", "#88CCEE", "#117733", "#661100")
SHARES = ("validation/", "groups/", "probability", "clip/")  # metrics between 0 and 1, whatever an interval says
SWEPT = {
    "avg": "held-out accuracy (avg@k) at the end",
    "entropy": "entropy (nats per token) at the end",
    "avg_of_run": "held-out accuracy (avg@k) over the run",
    "length_of_run": "completion length (tokens) over the run",
}

Style = dict[str, Any]


def styles(variants: Sequence[Variant]) -> dict[str, Style]:
    """Returns colour and line style by a variant's name; leave-one-out is dashed, and variants that are not in the
    paper are dash-dotted."""
    others, found = cycle(OTHERS), {}
    for variant in in_order(variants):
        number = len(ORDER) if variant.extras else place(variant)
        color = COLOURS[number] if number < len(ORDER) else next(others)
        line = "-" if number < len(LADDER) else "--" if number < len(ORDER) else "-."
        found[variant.name] = {"color": color, "linestyle": line}
    return found


def draw(figure: Figure, chosen: Mapping[str, Variant], style: Mapping[str, Style], folder: Path) -> Path:
    """Draws the variants that were chosen for a figure, by experiment, and returns the path of its file."""
    num_rows, num_columns = len(figure.metrics), len(figure.axes)
    canvas = Canvas(figsize=(4.1 * num_columns, 2.7 * num_rows + 1.3), layout="constrained")
    panels = canvas.subplots(num_rows, num_columns, squeeze=False, sharey="row")
    handles: dict[str, Any] = {}
    for row, (metric, label) in zip(panels, figure.metrics, strict=True):
        for panel, axis in zip(row, figure.axes, strict=True):
            for experiment, variant in chosen.items():
                points = curve(variant, metric, axis)
                if len(points):
                    handles[_legend(experiment, variant)] = _plot(panel, points, style[variant.name])
            panel.set_xlabel(axis.label)
            panel.grid(alpha=0.3)
        row[0].set_ylabel(at_k(label, chosen.values()))
        if row[0].lines:
            _limit(row[0], metric)
        else:
            row[0].text(0.5, 0.5, "not measured", ha="center", transform=row[0].transAxes)
    note = "lines: means over seeds at equal DAPO steps; bands: 95 % t interval over seeds, range of two seeds"
    if any(len(variant.finished) < len(variant.runs) for variant in chosen.values()):
        note += "; crosses: the end of a seed"
    return _save(canvas, figure.title, handles, note, folder / figure.file)


def draw_sweep(key: str, lines: Lines, style: Mapping[str, Style], folder: Path) -> Path:
    """Draws the effect of one override's value, at the end and over the whole run, and returns the path of the file."""
    canvas = Canvas(figsize=(9, 7.5), layout="constrained")
    handles: dict[str, Any] = {}
    variants = [variant for line in lines.values() for variant in line.values()]
    for panel, (measure, label) in zip(canvas.subplots(2, 2).flat, SWEPT.items(), strict=True):
        for name, line in lines.items():
            points = pd.DataFrame({value: intervals(variant.results).loc[measure] for value, variant in line.items()})
            points = points.T.dropna(subset="mean")
            if len(points):
                plain = min(line.values(), key=lambda variant: bool(variant.extras))
                look = style[plain.name] | {"linestyle": "-", "marker": "o", "markersize": 4, "capsize": 3}
                handles[name] = panel.errorbar(points.index, points["mean"], yerr=points["half_width"], **look)
        panel.set(xlabel=key, ylabel=at_k(label, variants))
        panel.grid(alpha=0.3)
    note = "means over seeds; bars: 95 % t interval over seeds, none for one seed"
    path = folder / f"sweep_{key.replace('/', '.')}.png"
    return _save(canvas, f"The effect of {key} (not in the paper)", handles, note, path)


def _plot(panel: Axes, points: pd.DataFrame, look: Style) -> Any:
    """Draws the mean with its band, and a cross where a seed ends before the others."""
    marker = "o" if len(points) <= 25 else ""
    (line,) = panel.plot(points["x"], points["mean"], linewidth=1.6, marker=marker, markersize=3, **look)
    panel.fill_between(points["x"], points["low"], points["high"], color=look["color"], alpha=0.15, linewidth=0)
    if points["count"].is_monotonic_decreasing:  # otherwise something is only measured at some steps
        ends = points[points["count"].diff(-1) > 0]
        panel.scatter(ends["x"], ends["mean"], marker="x", color=look["color"])
    return line


def _legend(experiment: str, variant: Variant) -> str:
    seeds, unfinished = len(variant.runs), len(variant.runs) - len(variant.finished)
    plural, suffix = "s" if seeds != 1 else "", f", {unfinished} unfinished" if unfinished else ""
    return f"{experiment} ({seeds} seed{plural}{suffix})"


def _limit(panel: Axes, metric: str) -> None:
    """Keeps shares between 0 and 1, and other metrics that are never negative above 0, because the wide intervals of
    three seeds would otherwise flatten the curves."""
    low, high = panel.get_ylim()
    if metric.startswith(SHARES):
        panel.set_ylim(max(low, -0.03), min(high, 1.03))
    elif min(np.min(line.get_ydata()) for line in panel.lines) >= 0:
        panel.set_ylim(max(low, 0.0), high)


def _save(canvas: Canvas, title: str, handles: Mapping[str, Any], note: str, path: Path) -> Path:
    """Writes a figure with its title above the panels and its legend below them."""
    canvas.suptitle(title, fontsize="large")
    place = {"loc": "outside lower center", "ncols": min(3, max(1, len(handles))), "frameon": False}
    canvas.legend(handles.values(), handles.keys(), title=note, title_fontsize="small", **place)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)
    return path
