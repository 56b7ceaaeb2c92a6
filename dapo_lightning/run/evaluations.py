"""The results of several checkpoints that are evaluated together: one table, one figure of accuracy against step."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dapo_lightning.run.summary import as_lines, cell
from dapo_lightning.utils.atomic import replacing
from dapo_lightning.utils.table import table

log = logging.getLogger(__name__)

_ACCURACY = re.compile(r"(?:(?!turn_\d+/)[\w-]+/)?(?:avg|maj)@\d+")
FIGURE = "evaluation.png"


@dataclass(frozen=True)
class Evaluated:
    """The held-out metrics of a checkpoint."""

    checkpoint: str
    step: int
    metrics: Mapping[str, float]

    @property
    def run(self) -> Path:
        """The folder of its run."""
        return Path(self.checkpoint).parent.parent


def put_aside(folder: Path, found: Sequence[Evaluated]) -> None:
    """Moves the completions of the last evaluation to a folder of their own, because the next one replaces them."""
    place = folder / f"completions_{len(found)}_step_{found[-1].step}"
    place.mkdir(exist_ok=True)
    for path in folder.glob("evaluation*.jsonl"):
        path.replace(place / path.name)


def evaluations_as_text(found: Sequence[Evaluated], folder: Path) -> str:
    """Returns a table with a row for each checkpoint and a column for each accuracy, as mean ± half-width of its 95 %
    interval, and the files that hold everything else."""
    names = list(dict.fromkeys(name for one in found for name in one.metrics if _ACCURACY.fullmatch(name)))
    rows = [
        (label, *(cell(one.metrics, name) for name in names)) for label, one in zip(labels(found), found, strict=True)
    ]
    shown = {"accuracy by step": FIGURE} if (folder / FIGURE).exists() else {}
    return as_lines(
        table(("checkpoint", *names), rows, style="plain"),
        {"run folder": str(folder), **shown, "every prompt": "completions_.../", "all metrics": "summary.json"},
    )


def labels(found: Sequence[Evaluated]) -> list[str]:
    """Returns a name for each checkpoint: its step, with the folder of its run if there are several."""
    several = len({one.run for one in found}) > 1
    return [f"{one.run.name}, step {one.step}" if several else f"step {one.step}" for one in found]


def draw_evaluations(found: Sequence[Evaluated], folder: Path) -> None:
    """Draws avg@n of each run and each held-out set against the step, with 95 % intervals, if matplotlib is
    installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        log.warning('%s was not drawn, because matplotlib is missing: pip install "dapo-lightning[study]"', FIGURE)
        return
    runs = list(dict.fromkeys(one.run for one in found))
    twice = Counter(run.name for run in runs)
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        of_run = sorted((one for one in found if one.run == run), key=lambda one: one.step)
        names = dict.fromkeys(name for one in of_run for name in one.metrics)
        for name in (name for name in names if _ACCURACY.fullmatch(name) and "avg@" in name):
            shown = [one for one in of_run if name in one.metrics]
            bars = [one.metrics.get(f"{name}_ci95", 0.0) for one in shown]
            place = str(run) if twice[run.name] > 1 else run.name
            axes.errorbar(
                [one.step for one in shown], [one.metrics[name] for one in shown], yerr=bars, marker="o", markersize=3,
                capsize=2, label=f"{place}: {name}" if len(runs) > 1 else name,
            )  # fmt: skip
    axes.set(xlabel="DAPO steps", ylabel="held-out accuracy")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with replacing(folder / FIGURE) as partial:
        figure.savefig(partial, dpi=120, format="png")
