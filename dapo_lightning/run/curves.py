"""Draws curves.png, an overview of a run."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # an optional dependency, which also takes a second to import

from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.utils.atomic import replacing

log = logging.getLogger(__name__)

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("accuracy", ("accuracy", "validation/avg@", "validation/pass@", "validation/maj@")),
    ("reward", ("reward/mean", "overlong/penalty")),
    ("policy entropy (nats per token)", ("entropy",)),
    ("completion length (tokens)", ("length/mean", "length/max")),
    ("share of completions or groups", ("length/truncated", "groups/useful", "groups/all_correct", "groups/all_wrong")),
    ("clipped tokens (share)", ("clip/upper_fraction", "clip/lower_fraction")),
)


def draw_curves(run_folder: Path) -> None:
    """Draws run_folder/metrics.csv into run_folder/curves.png, if matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        log.warning('curves.png was not drawn, because matplotlib is missing: pip install "dapo-lightning[study]"')
        return
    rows = read_metrics(run_folder / "metrics.csv")
    names = _shown(dict.fromkeys(name for row in rows for name in row))
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    for axes, (title, wanted) in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
        for name in names:
            of_set = re.fullmatch(r"validation/(?!turn_\d+/)[\w-]+/avg@\d+", name) and title == "accuracy"
            if name in wanted or of_set or any(name.startswith(one) for one in wanted if one.endswith("@")):
                _plot(axes, rows, name)
        axes.set(title=title, xlabel="DAPO steps")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    with replacing(run_folder / "curves.png") as partial:
        figure.savefig(partial, dpi=100, format="png")


def _shown(names: Iterable[str]) -> list[str]:
    """Leaves out confidence intervals, which are drawn as error bars, and pass@k for all but the largest k."""
    names = [name for name in names if not name.endswith("_ci95")]
    passes = [name for name in names if name.startswith("validation/pass@")]
    smaller = sorted(passes, key=lambda name: int(name.rpartition("@")[2]))[:-1]
    return [name for name in names if name not in smaller]


def _plot(axes: Axes, rows: Sequence[dict[str, Any]], name: str) -> None:
    rows = [row for row in rows if name in row]
    steps, values = [row["step"] for row in rows], [row[name] for row in rows]
    if name.startswith("validation/"):
        bars = [row.get(f"{name}_ci95", 0.0) for row in rows]
        axes.errorbar(steps, values, yerr=bars, label=name, marker="o", markersize=3, capsize=2)
    else:
        axes.plot(steps, values, label=name, linewidth=1.2)
