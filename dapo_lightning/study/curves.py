"""curves.png: how a run went, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from dapo_lightning.logger import read_metrics

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("accuracy", ("accuracy", "validation/avg@", "validation/pass@", "validation/maj@")),
    ("reward", ("reward/mean", "overlong/penalty")),
    ("policy entropy (nats per token)", ("entropy",)),
    ("completion length (tokens)", ("length/mean", "length/max")),
    ("share of completions or groups", ("length/truncated", "groups/useful", "groups/all_correct", "groups/all_wrong")),
    ("clipped tokens (share)", ("clip/upper_fraction", "clip/lower_fraction")),
)


def draw_curves(run_folder: Path) -> Path:
    """Draws run_folder/metrics.csv into run_folder/curves.png and returns its path."""
    rows = read_metrics(run_folder / "metrics.csv")
    names = list(dict.fromkeys(name for row in rows for name in row))
    figure, axes = plt.subplots(2, 3, figsize=(13, 6.5), layout="constrained")
    for axis, (title, wanted) in zip(axes.flat, PANELS, strict=True):
        for name in names:
            if name in wanted or any(name.startswith(prefix) for prefix in wanted if prefix.endswith("@")):
                _plot(axis, rows, name)
        axis.set(title=title, xlabel="DAPO steps")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize="small")
    path = run_folder / "curves.png"
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path


def _plot(axis: Axes, rows: Sequence[dict[str, Any]], name: str) -> None:
    points = [(row["step"], row[name]) for row in rows if name in row]
    style = {"marker": "o", "markersize": 3} if name.startswith("validation/") else {"linewidth": 1.2}
    axis.plot(*zip(*points, strict=True), label=name, **style)
