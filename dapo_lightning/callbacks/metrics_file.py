"""Writes metrics.csv, with one row for each DAPO step, including those of earlier sessions."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from dapo_lightning.utils.atomic import replacing
from dapo_lightning.utils.csv_lines import csv_lines


class MetricsFile(Logger):
    """A logger that writes a CSV file with a `step` column and a column for each metric. Cells of metrics that were not
    measured at a step are empty.

    (Lightning's CSVLogger deletes the file of an earlier session, which a resumed run needs.) When steps are repeated,
    their rows replace the old ones. Each update writes a new file and renames it into place, so that a kill cannot
    damage the file.
    """

    def __init__(self, path: str):
        super().__init__()
        self._path = Path(path)
        self._rows: dict[int, dict[str, Any]] = {}

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsFile:
        return self

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing, because config.yaml in the run folder holds the hyperparameters."""

    def resume_after(self, last_step: int) -> None:
        """Reads the rows of an earlier session up to a step; later steps will be repeated."""
        if self._path.exists():
            rows, num_bad = parse_metrics(self._path)
            if num_bad:
                rank_zero_warn(f"{self._path}: {num_bad} damaged line(s) are left out")
            self._rows = {row["step"]: row for row in rows if row["step"] <= last_step}

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = self._rows.setdefault(int(step or 0), {"step": int(step or 0)})
        row.update({name: value for name, value in metrics.items() if name != "epoch"})
        self.save()

    @rank_zero_only
    def save(self) -> None:
        if not self._rows:
            return
        columns = {name: None for row in self._rows.values() for name in row}
        with replacing(self._path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self._rows[step] for step in sorted(self._rows))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a metrics.csv: numbers as floats, `step` as int, without empty cells and damaged lines."""
    return parse_metrics(path)[0]


def parse_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Returns the rows of a metrics.csv, and the number of damaged lines, which are left out. A loss of power or an
    incomplete copy may leave lines with NUL bytes, with a wrong number of cells, without an end, or without numbers."""
    lines, is_incomplete = csv_lines(path.read_text(encoding="utf-8", errors="replace"))
    header, *cells = lines or [[]]
    rows = [row for row in (_parsed(header, row) for row in cells) if row]
    return rows, len(cells) - len(rows) + is_incomplete


def _parsed(header: list[str], cells: list[str]) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = {name: float(cell) for name, cell in zip(header, cells, strict=True) if cell}
        return row | {"step": int(row["step"])}
    except (ValueError, OverflowError, KeyError):
        return None
