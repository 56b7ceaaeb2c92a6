"""Prompts from the Hugging Face hub, or from a local copy of a dataset."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from dapo_lightning.data import DataError
from dapo_lightning.data.columns import Columns
from dapo_lightning.data.files import NO_TRAIN_PATH
from dapo_lightning.types import Prompt

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}


@dataclass(frozen=True)
class Hub:
    """Reads splits of datasets as the `datasets` library loads them, with the types that it stores or infers.

    A path is a dataset id on the hub, a local folder (such as `hf download` creates), or a local file, which then is
    the whole split. Downloads stay in the cache of the library; scripts in a dataset are never executed. The source
    of a prompt is path, split and row, counted from 1.

    Args:
        train_path: None for data that is only evaluated.
        train_name, validation_name: the configuration (subset), for datasets that have several.
        train_split, validation_split: a split, or a part of one: `train[:1000]`.
        prompt_column, answer_column, answer_after: see `Columns`.
        unique: drop rows whose prompt and answer repeat those of an earlier row, and log how many. DAPO-Math-17k
            contains each of its 17,917 rows 100 times, AIME-2024 each of its 30 rows 32 times.

    Raises:
        DataError: from the methods, naming the key or row and the remedy, if a split or a row cannot be used.
    """

    train_path: str | None
    validation_path: str
    train_name: str | None = None
    train_split: str = "train"
    validation_name: str | None = None
    validation_split: str = "test"
    prompt_column: str = "prompt"
    answer_column: str = "answer"
    answer_after: str | None = None
    unique: bool = False

    def train_prompts(self) -> Sequence[Prompt]:
        """Return all rows of the training split, in order."""
        if self.train_path is None:
            raise DataError(NO_TRAIN_PATH)
        return self._read(_Split("train", self.train_path, self.train_name, self.train_split))

    def validation_prompts(self) -> Sequence[Prompt]:
        """Return all rows of the held-out split, in order."""
        return self._read(_Split("validation", self.validation_path, self.validation_name, self.validation_split))

    def _read(self, split: _Split) -> list[Prompt]:
        dataset, where = split.load(), f"{split.path}:{split.split}"
        columns = Columns(self.prompt_column, self.answer_column, self.answer_after)
        rows: Sequence[int] = range(len(dataset))
        if self.unique:
            columns.read(dataset[0], f"{where}:1")  # reports a missing column, which could not be compared
            rows = _first_occurrences(dataset, [self.prompt_column, self.answer_column])
            if dropped := len(dataset) - len(rows):
                log.info("%s: dropped %d rows of %d as copies (data.unique)", where, dropped, len(dataset))
        return [columns.read(row, f"{where}:{i + 1}") for i, row in zip(rows, dataset.select(rows), strict=True)]


@dataclass(frozen=True)
class _Split:
    """Holds the values of data.<kind>_path, data.<kind>_name and data.<kind>_split."""

    kind: str
    path: str
    name: str | None
    split: str

    def load(self) -> Dataset:
        import datasets

        source, files, path = self.path, None, Path(self.path)
        if path.is_file():
            source = FORMATS.get(path.suffix.lower(), "")
            if not source:
                raise DataError(
                    f"data.{self.kind}_path={self.path}: the extension of a single file must be one of "
                    f"{', '.join(FORMATS)}. Read other files with data=jsonl, or give a folder."
                )
            files = {self.split.partition("[")[0]: escape(self.path)}
        try:  # in two steps: errors of a split need another remedy than errors of a dataset
            if not path.exists() and (path.is_absolute() or self.path.startswith(".")):
                raise FileNotFoundError(f"there is no file or folder {path.absolute()}")  # no id: the hub is not asked
            builder = datasets.load_dataset_builder(source, None if files else self.name, data_files=files)
            builder.download_and_prepare()
        except Exception as error:  # from the library, its network client or Arrow: there is no common type
            raise DataError(self._explain(error)) from None
        try:
            return builder.as_dataset(split=self.split)
        except ValueError as error:
            raise DataError(
                f"data.{self.kind}_split={self.split}: {self.path} has no such rows ({_first_line(error)}). "
                f"Set data.{self.kind}_split."
            ) from None

    def _explain(self, error: Exception) -> str:
        from datasets.exceptions import DatasetNotFoundError, DatasetsError

        key, reason, path = f"data.{self.kind}_path", _first_line(error), Path(self.path)
        where, missing = f"{key}={self.path}", f"there is no file or folder {path.absolute()}"
        if isinstance(error, DatasetNotFoundError):
            remedy = "Correct the path or the id; if the dataset is private or gated, log in with `hf auth login`."
            return f"{where}: {missing}, and on the hub: {reason}. {remedy}"
        is_local = path.exists() or self.path.count("/") > 1
        if is_local or isinstance(error, FileNotFoundError | DatasetsError | ValueError | RuntimeError):
            name = "null" if self.name is None else self.name
            return (
                f"{where} with data.{self.kind}_name={name}: cannot be loaded ({reason}). "
                "Set the path and the name to what exists, or fix the files."
            )
        return (
            f"{where}: {missing}, and the hub cannot be reached ({reason}). If this machine is offline, run "
            f"`hf download --repo-type dataset {self.path} --local-dir DIR` on one with a network and set {key}=DIR, "
            "or use data=jsonl with your own files."
        )


def _first_line(error: Exception) -> str:
    """Return the reason in one line; if a conversion failed, the library gives it only as the cause of its error."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def _first_occurrences(dataset: Dataset, columns: Sequence[str]) -> list[int]:
    """Return the rows that do not equal an earlier row in these columns.

    Arrow values are compared, because that takes ten seconds for 1.8 million rows; prompts would take a hundred.
    """
    flat = dataset.flatten()  # gives fields of records dotted names
    names = {_stored_column(column, flat.column_names): None for column in columns}
    tables = flat.select_columns(list(names)).with_format("arrow").iter(batch_size=10_000)
    values = (row for table in tables for row in zip(*(c.to_pylist() for c in table.columns), strict=True))
    first: dict[str, int] = {}
    for i, row in enumerate(values):
        first.setdefault(repr(row), i)
    return list(first.values())


def _stored_column(column: str, names: Sequence[str]) -> str:
    """Return the column, or the record that contains it if that is stored as one value (JSON of mixed types)."""
    while column not in names:
        column = column.rpartition(".")[0]
    return column
