"""Draws the figure of each technique by calling its functions, so that a figure shows what the code does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FIGURES: dict[str, Callable[[], Figure]] = {}


def figure(function: Callable[[], Figure]) -> Callable[[], Figure]:
    """Registers a figure under the name of the function that draws it."""
    FIGURES[function.__name__] = function
    return function


def draw_figures(folder: Path) -> list[Path]:
    """Draws every registered figure into the folder, as SVG; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context({"svg.hashsalt": "docs", "font.size": 10, "axes.grid": True, "grid.alpha": 0.3}):
        for name, draw in FIGURES.items():
            paths.append(folder / f"{name}.svg")
            draw().savefig(paths[-1], metadata={"Date": None})
    return paths


def _axes(columns: int, width: float = 4.2) -> tuple[Figure, list[Axes]]:
    drawing = Figure(figsize=(width * columns, 3.2), layout="constrained")
    return drawing, [drawing.add_subplot(1, columns, i + 1) for i in range(columns)]
