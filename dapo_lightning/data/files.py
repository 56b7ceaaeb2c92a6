"""Prompts from your own files: JSON lines, CSV or parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dapo_lightning.data import DataError
from dapo_lightning.data.columns import Columns
from dapo_lightning.types import Prompt

NO_TRAIN_PATH = (
    "data.train_path=null: there is nothing to train on, so this data can only be evaluated (mode=evaluate). "
    "Set data.train_path, or choose another data=..."
)

QUOTING = 'Put cells that contain commas, quotes or line breaks into "quotes".'

Rows = Iterator[tuple[int, Mapping[str, Any]]]


@dataclass(frozen=True)
class Files:
    """Reads one file of training rows and one of held-out rows, each in the format that its extension names.

    JSON lines (.jsonl, .json) hold one object per line. The cells of a CSV file are text, exactly as written. The
    source of a prompt is its file with the line number for JSON lines, else with the row number, counted from 1.

    Args:
        train_path: None for data that is only evaluated.
        prompt_column, answer_column, answer_after: see `Columns`.

    Raises:
        DataError: from the methods, naming file, row and remedy, if a file or a row cannot be used.
    """

    train_path: str | None
    validation_path: str
    prompt_column: str = "prompt"
    answer_column: str = "answer"
    answer_after: str | None = None

    def train_prompts(self) -> Sequence[Prompt]:
        """Return all rows of `train_path`, in order."""
        if self.train_path is None:
            raise DataError(NO_TRAIN_PATH)
        return self._read("train", self.train_path)

    def validation_prompts(self) -> Sequence[Prompt]:
        """Return all rows of `validation_path`, in order."""
        return self._read("validation", self.validation_path)

    def _read(self, split: str, path: str) -> list[Prompt]:
        reader = _READERS.get(Path(path).suffix.lower())
        if reader is None:
            extensions = ", ".join(_READERS)
            raise DataError(f"{path}: the extension is none of {extensions}. Set data.{split}_path to such a file.")
        columns = Columns(self.prompt_column, self.answer_column, self.answer_after)
        try:
            return [columns.read(row, f"{path}:{number}") for number, row in reader(path)]
        except DataError:
            raise
        except (OSError, ValueError) as error:  # missing, not UTF-8, not parquet
            where = Path(path).absolute()
            raise DataError(f"{path}: cannot be read from {where} ({error}). Correct data.{split}_path.") from None


def _read_json_lines(path: str) -> Rows:
    # datasets would read text that looks like a date as a date, round integers beyond 64 bits, and name no line.
    lines = Path(path).read_text(encoding="utf-8-sig").split("\n")  # splitlines would also split at U+2028
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}:{number}: not valid JSON ({error.msg} at column {error.colno}). Each line must be one object."
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: holds a {type(row).__name__}. Each line must be one object.")
        yield number, row


def _read_csv(path: str) -> Rows:
    # datasets (pandas) would shift all cells after a comma that is not quoted, fill missing cells, and guess types.
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        try:
            header = rows.fieldnames or []
            if len(set(header)) < len(header):
                raise DataError(f"{path}: the header names a column twice: {header}. Rename one of them.")
            for number, row in enumerate(rows, 1):
                if None in row or None in row.values():
                    raise DataError(f"{path}:{number}: has more or fewer cells than the header {header}. {QUOTING}")
                yield number, row
        except csv.Error as error:
            raise DataError(f"{path}: cannot be read at line {rows.reader.line_num} ({error}). {QUOTING}") from None


def _read_parquet(path: str) -> Rows:
    # load_dataset would take "[" in the path for a pattern, refuse an empty file, and copy the file into its cache.
    import datasets
    import pyarrow.parquet

    rows = datasets.Dataset(pyarrow.parquet.ParquetFile(path).read())  # decodes the types that datasets writes
    yield from enumerate(rows, 1)


_READERS = {".jsonl": _read_json_lines, ".json": _read_json_lines, ".parquet": _read_parquet, ".csv": _read_csv}
