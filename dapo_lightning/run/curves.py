"""curves.png: how a run went, at a glance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from dapo_lightning.callbacks.metrics_file import read_metrics

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
    names = _shown(dict.fromkeys(name for row in rows for name in row))
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


def _shown(names: Iterable[str]) -> list[str]:
    """All but the confidence intervals, which are drawn as bars, and pass@k for k below the largest."""
    names = [name for name in names if not name.endswith("_ci95")]
    passes = [name for name in names if name.startswith("validation/pass@")]
    smaller = sorted(passes, key=lambda name: int(name.rpartition("@")[2]))[:-1]
    return [name for name in names if name not in smaller]


def _plot(axis: Axes, rows: Sequence[dict[str, Any]], name: str) -> None:
    rows = [row for row in rows if name in row]
    steps, values = [row["step"] for row in rows], [row[name] for row in rows]
    if name.startswith("validation/"):
        bars = [row.get(f"{name}_ci95", 0.0) for row in rows]
        axis.errorbar(steps, values, yerr=bars, label=name, marker="o", markersize=3, capsize=2)
    else:
        axis.plot(steps, values, label=name, linewidth=1.2)
