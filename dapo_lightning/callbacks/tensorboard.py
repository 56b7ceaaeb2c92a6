"""TensorBoard for a run that may be resumed: its curves, the paper's figures, its hyperparameters, and its tables."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from dapo_lightning.callbacks import dashboard
from dapo_lightning.utils.table import number

WIDTHS = {"prompt": 36, "completion": 64, "answer": 16}  # characters; TensorBoard does not wrap lines
MAX_CHARACTERS = 4000  # per text; the files in rollouts/ are complete


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoard logger, which hides points after the checkpoint when a run is resumed.

    It writes the layout of the charts with the first DAPO step of a process that updates the policy (earlier ones lack
    metrics), and the row of the HPARAMS tab with the first evaluation. It marks the run as complete when the run has
    ended. (Not earlier: TensorBoard keeps what it reads first, and a run that fails may be resumed.)

    Args:
        folder: where the events are written.
        numbers: names of all numeric hyperparameters of all options. TensorBoard reads the columns from one run, so
            every run declares all of them.
    """

    def __init__(self, folder: str, numbers: Sequence[str] = ()):
        path = Path(folder)
        super().__init__(str(path.parent), name="", version=path.name, default_hp_metric=False)
        self.numbers = tuple(numbers)
        self._has_row = self._has_layout = False

    def resume_after(self, last_step: int) -> None:
        """Hides what an earlier session logged after a step, because later steps will be repeated."""
        self._kwargs["purge_step"] = last_step + 1  # read by the SummaryWriter, which is created on first use

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        if not self._has_layout and "ratio/mean" in metrics:
            self.experiment.add_custom_scalars(dashboard.layout(metrics))
            self._has_layout = True
        evaluation = [name for name in metrics if name.startswith("validation/")]
        if evaluation and not self._has_row:
            self._add(*dashboard.row(dict(self.hparams), self.numbers, evaluation))
            self._has_row = True

    @rank_zero_only
    def log_table(self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]], step: int) -> None:
        """Shows a table in the tab TEXT."""
        self.experiment.add_text(key, as_html(columns, data), step)

    @rank_zero_only
    def close(self, is_finished: bool) -> None:
        if is_finished and self._has_row:
            self._add(dashboard.end())

    def _add(self, *summaries: Any) -> None:
        """SummaryWriter.add_hparams would create a separate run. Step 0 survives the purge when a run is resumed."""
        for summary in summaries:
            self.experiment._get_file_writer().add_summary(summary, 0)
        self.experiment.flush()


def as_html(columns: Sequence[str], data: Sequence[Sequence[Any]]) -> str:
    """Returns an HTML table, which TensorBoard accepts as Markdown. Texts are escaped, so they appear as written."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    rows = ("".join(f"<td>{_cell(name, value)}</td>" for name, value in zip(columns, row, strict=True)) for row in data)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(name: str, value: Any) -> str:
    if isinstance(value, str):
        return f"<pre>{html.escape(_wrapped(_shortened(value), WIDTHS.get(name, 64)))}</pre>"
    return number(value, "{:+.2f}") if isinstance(value, float) else str(value)


def _shortened(text: str) -> str:
    """Cuts out the middle of a long text, because questions are at its start and answers at its end."""
    half = MAX_CHARACTERS // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[... {left_out} characters ...]\n{text[-half:]}" if left_out > 0 else text


def _wrapped(text: str, width: int) -> str:
    """Breaks the text into lines of at most `width` characters, at spaces where possible."""
    return "\n".join(
        part
        for line in text.split("\n")
        for part in textwrap.wrap(line, width, expand_tabs=False, replace_whitespace=False) or [""]
    )
