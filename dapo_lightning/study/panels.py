"""Draws figures with matplotlib: colours that the colour-blind can tell apart, and that an arm keeps everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from dapo_lightning.study import ladder
from dapo_lightning.study.arms import Arm
from dapo_lightning.study.figures import Figure, Sweep
from dapo_lightning.study.series import SURE, Point, curve, spread

# Okabe and Ito (2008) where it reaches, Tol's "muted" for the rest; what a technique is left out of is dashed
STYLES: dict[str, tuple[str, str]] = {
    "dapo": ("#0072B2", "-"),
    "ladder_0_grpo": ("#777777", "-"),
    "ladder_1_overlong_filter": ("#E69F00", "-"),
    "ladder_2_clip_higher": ("#56B4E9", "-"),
    "ladder_3_soft_punishment": ("#CC79A7", "-"),
    "ladder_4_token_level": ("#009E73", "-"),
    "dapo_minus_clip_higher": ("#D55E00", "--"),
    "dapo_minus_token_level": ("#882255", "--"),
    "dapo_minus_soft_punishment": ("#000000", "--"),
    "ppo_clip": ("#999933", ":"),
}
OTHERS = ("#332288", "#CC6677", "#44AA99", "#AA4499", "#DDAA33", "#88CCEE", "#117733", "#661100")
SHARES = ("validation/", "groups/", "probability", "clip/")  # what lies between 0 and 1, whatever an interval says

Style = dict[str, Any]


def styles(arms: Sequence[Arm]) -> dict[str, Style]:
    """Colour and line of each arm, by its name: the paper's arms have theirs, others take turns."""
    found: dict[str, Style] = {}
    num_others = 0
    for arm in ladder.in_order(arms):
        own = next((STYLES[role] for role in STYLES if role in ladder.roles(arm) and not arm.extras), None)
        if own is None:
            own = (OTHERS[num_others % len(OTHERS)], ("-.", ":", "--")[num_others % 3])
            num_others += 1
        found[arm.name] = {"color": own[0], "linestyle": own[1]}
    return found


def draw(figure: Figure, style: dict[str, Style], folder: Path) -> Path:
    """Draws a figure into folder/<its file> and returns the path."""
    num_rows, num_columns = len(figure.metrics), len(figure.axes)
    size = (4.1 * num_columns, 2.7 * num_rows + 1.3)
    canvas, grid = plt.subplots(num_rows, num_columns, figsize=size, squeeze=False, sharey="row", layout="constrained")
    handles: dict[str, Any] = {}
    bands: set[str] = set()
    for axes_of_row, (metric, label) in zip(grid, figure.metrics, strict=True):
        for panel, axis in zip(axes_of_row, figure.axes, strict=True):
            for role, arm in figure.roles:
                points = curve(arm, metric, axis)
                if points:
                    handles[_legend(role, arm)] = _line(panel, points, style[arm.name])
                    bands |= spread(points)
            panel.set_xlabel(axis.label)
            panel.grid(alpha=0.3)
        axes_of_row[0].set_ylabel(label.replace("@k", _at_k([arm for _, arm in figure.roles])))
        _limit(axes_of_row[0], metric)
        if not axes_of_row[0].lines:
            axes_of_row[0].text(0.5, 0.5, "not measured", ha="center", transform=axes_of_row[0].transAxes)
    note = f"lines: means over seeds at equal DAPO steps; bands: {_joined(bands)}"
    unfinished = any(len(arm.finished) < len(arm.runs) for _, arm in figure.roles)
    _caption(canvas, figure.title, handles, note + ("; crosses: a seed ends here" if unfinished else ""))
    return _save(canvas, folder / figure.file)


def draw_sweep(sweep: Sweep, style: dict[str, Style], folder: Path) -> Path:
    """Draws what the value of one override does, at the end and over the whole run."""
    canvas, panels = plt.subplots(2, 2, figsize=(9, 7.5), layout="constrained")
    handles: dict[str, Any] = {}
    arms = [arm for line in sweep.lines.values() for _, arm in line]
    bands: set[str] = set()
    labels = (
        ("avg", f"held-out accuracy (avg{_at_k(arms)}) at the end"),
        ("entropy", "entropy (nats per token) at the end"),
        ("avg_of_run", f"held-out accuracy (avg{_at_k(arms)}) over the run"),
        ("length_of_run", "completion length (tokens) over the run"),
    )
    for panel, (measure, label) in zip(panels.flat, labels, strict=True):
        for name, line in sweep.lines.items():
            points = sweep.points(name, measure)
            if points:
                values, found = [value for value, _ in points], [over_seeds for _, over_seeds in points]
                bars = [np.nan if one.half_width is None else one.half_width for one in found]  # nan: none is drawn
                plain = next((arm for _, arm in line if not arm.extras), line[0][1])
                look = style[plain.name] | {"linestyle": "-"}
                means = [over_seeds.mean for over_seeds in found]
                handles[name] = panel.errorbar(values, means, yerr=bars, marker="o", markersize=4, capsize=3, **look)
                bands |= {SURE if one.half_width is not None else "none for one seed" for one in found}
        panel.set(xlabel=sweep.key, ylabel=label)
        panel.grid(alpha=0.3)
    _caption(canvas, f"What {sweep.key} does (not in the paper)", handles, f"means over seeds; bars: {_joined(bands)}")
    return _save(canvas, folder / sweep.file)


def _line(panel: Axes, points: Sequence[Point], look: Style) -> Any:
    """The mean with its band; a cross where a seed ends before the others."""
    xs, means = [point.x for point in points], [point.mean for point in points]
    marker = "o" if len(points) <= 25 else ""
    (line,) = panel.plot(xs, means, linewidth=1.6, marker=marker, markersize=3, **look)
    lows, highs = [point.low for point in points], [point.high for point in points]
    panel.fill_between(xs, lows, highs, color=look["color"], alpha=0.15, linewidth=0)
    ends = [one for one, after in pairwise(points) if after.count < one.count]
    if len({point.count for point in points}) > 1 and _shrinks_only(points):
        panel.plot([one.x for one in ends], [one.mean for one in ends], "x", color=look["color"], markersize=7)
    return line


def _shrinks_only(points: Sequence[Point]) -> bool:
    """Whether seeds end early, rather than measure something at some steps and not at others."""
    return all(after.count <= one.count for one, after in pairwise(points))


def _legend(role: str, arm: Arm) -> str:
    seeds = f"{len(arm.runs)} seed" + ("s" if len(arm.runs) != 1 else "")
    unfinished = len(arm.runs) - len(arm.finished)
    return f"{role} ({seeds}{f', {unfinished} unfinished' if unfinished else ''})"


def _at_k(arms: Sequence[Arm]) -> str:
    found = {run.k for arm in arms for run in arm.runs if run.k}
    return f"@{found.pop()}" if len(found) == 1 else "@k"


def _limit(panel: Axes, metric: str) -> None:
    """Wide intervals of three seeds must not squeeze the curves: shares stay within 0 and 1, and what is never
    negative above 0."""
    low, high = panel.get_ylim()
    if metric.startswith(SHARES):
        panel.set_ylim(max(low, -0.03), min(high, 1.03))
    elif min((float(np.min(line.get_ydata())) for line in panel.lines), default=-1.0) >= 0:
        panel.set_ylim(max(low, 0.0), high)


def _caption(canvas: Any, title: str, handles: dict[str, Any], note: str) -> None:
    """The title above, the legend below the panels, where it covers no line."""
    canvas.suptitle(title, fontsize="large")
    place = {"loc": "outside lower center", "ncols": min(3, max(1, len(handles))), "frameon": False}
    canvas.legend(handles.values(), handles.keys(), title=note, title_fontsize="small", **place)


def _joined(bands: set[str]) -> str:
    return ", ".join(sorted(bands)) or "none"


def _save(canvas: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)
    plt.close(canvas)
    return path
