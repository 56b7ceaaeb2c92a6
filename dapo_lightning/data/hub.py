"""Prompts from the Hugging Face hub, or from a local copy of a dataset."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dapo_lightning.data import DataError
from dapo_lightning.data.columns import Columns
from dapo_lightning.data.files import ONLY_EVALUATED
from dapo_lightning.data.media import without_decoding
from dapo_lightning.types import Prompt

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder

log = logging.getLogger(__name__)

KINDS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}


@dataclass(frozen=True)
class Hub:
    """Splits of datasets as the `datasets` library loads them, with the types that it finds or guesses.

    A path is a dataset's id on the hub, a local folder (such as one that `hf download` creates), or a local file, which
    is the whole of the requested split. Nothing is loaded before the first call. Downloads are kept in the library's
    cache. The source of a prompt consists of path, split and row, counted from 1.

    Args:
        train_path: None for data that is only evaluated.
        train_name, validation_name: the configuration (subset), for datasets with several.
        train_split, validation_split: names of splits, or parts of splits such as `train[:1000]`.
        prompt_column, answer_column, answer_after: see `Columns`.
        unique: drop rows whose prompt and answer columns repeat an earlier row's, and log how many. DAPO-Math-17k holds
            each of its 17,917 rows 100 times, AIME-2024 each of its 30 rows 32 times.

    Raises:
        DataError: from the methods, naming the key or row and the remedy, if a split is unavailable or a row cannot be
            used.
    """

    train_path: str | None
    validation_path: str
    train_name: str | None = None
    train_split: str = "train"
    validation_name: str | None = None
    validation_split: str = "test"
    prompt_column: str = "prompt"
    answer_column: str | None = "answer"
    answer_after: str | None = None
    unique: bool = False

    def train_prompts(self) -> Sequence[Prompt]:
        """Returns all rows of the train split."""
        if self.train_path is None:
            raise DataError(ONLY_EVALUATED)
        return self._prompts(_Split("train", self.train_path, self.train_name, self.train_split))

    def validation_prompts(self) -> Sequence[Prompt]:
        """Returns all rows of the validation split."""
        return self._prompts(_Split("validation", self.validation_path, self.validation_name, self.validation_split))

    def _prompts(self, split: _Split) -> list[Prompt]:
        dataset = without_decoding(split.load())
        columns = Columns(self.prompt_column, self.answer_column, self.answer_after)
        rows: Sequence[int] = range(len(dataset))
        if self.unique:
            columns.read(dataset[0], split.source(0))  # reports a missing column, which could not be compared
            rows = _not_repeated(dataset, [name for name in (self.prompt_column, self.answer_column) if name])
            if len(rows) < len(dataset):
                dropped, where = len(dataset) - len(rows), f"{split.path}:{split.split}"
                log.info(
                    "%s: dropped %d rows of %d that repeat an earlier row (data.unique)", where, dropped, len(dataset)
                )
        prompts: list[Prompt] = []
        try:
            prompts.extend(
                columns.read(row, split.source(i)) for i, row in zip(rows, dataset.select(rows), strict=True)
            )
        except UnicodeDecodeError as error:
            raise DataError(
                f"{split.source(rows[len(prompts)])}: is not UTF-8 ({error}). Re-encode the file."
            ) from None
        return prompts


@dataclass(frozen=True)
class _Split:
    """The split that data.<kind>_path, data.<kind>_name and data.<kind>_split specify."""

    kind: str
    path: str
    name: str | None
    split: str

    def source(self, row: int) -> str:
        return f"{self.path}:{self.split}:{row + 1}"

    def load(self) -> Dataset:
        try:
            builder = self._builder()
            builder.download_and_prepare()
        except DataError:
            raise
        except Exception as error:  # errors of the library, its network client and Arrow have no common type
            raise DataError(self._why(error)) from None
        try:
            return builder.as_dataset(split=self.split)
        except ValueError as error:
            raise DataError(
                f"data.{self.kind}_split={self.split}: {self.path} does not provide this split ({_reason(error)}). "
                f"Choose another data.{self.kind}_split."
            ) from None

    def _builder(self) -> DatasetBuilder:
        import datasets

        file = Path(self.path).expanduser()
        if not file.is_file():
            return datasets.load_dataset_builder(self.path, self.name)
        kind = KINDS.get(file.suffix.lower())
        if kind is None:
            raise DataError(
                f"data.{self.kind}_path={self.path}: the extension of a single file must be one of "
                f"{', '.join(KINDS)}. Read other files with data=jsonl, or give a folder."
            )
        whole, _, _ = self.split.partition("[")
        return datasets.load_dataset_builder(kind, data_files={whole: str(file)})

    def _why(self, error: Exception) -> str:
        from datasets.exceptions import DatasetNotFoundError, DatasetsError

        if cache := _unwritable_cache(error):
            return f"data=hub stores its data in {cache}, which is not writable ({_reason(error)}): set HF_HOME."
        where, reason = f"data.{self.kind}_path={self.path}", _reason(error)
        if isinstance(error, DatasetNotFoundError):
            return f"{where}: {reason}. Correct the id; if it is private or gated, log in first with `hf auth login`."
        path = Path(self.path).expanduser()
        is_local = path.exists() or path.is_absolute() or self.path.count("/") > 1
        if is_local or isinstance(error, DatasetsError | ValueError | RuntimeError):
            name = "null" if self.name is None else self.name
            return (
                f"{where} with data.{self.kind}_name={name}: cannot be loaded ({reason}). "
                "Set both keys to an existing dataset and configuration, or fix the files."
            )
        return (
            f"{where}: there is no such folder or file, and the hub cannot be reached ({reason}). Without network "
            f"access, run `hf download --repo-type dataset {self.path} --local-dir DIR` on another machine and set "
            f"data.{self.kind}_path=DIR, or use data=jsonl with your own files."
        )


def _unwritable_cache(error: Exception) -> str | None:
    """Returns the library's cache if the error concerns a file in it or a folder above it, or None."""
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE).expanduser().absolute()
    causes = (cause for cause in (error, error.__cause__) if isinstance(cause, OSError) and cause.filename)
    paths = [Path(os.fsdecode(cause.filename)).absolute() for cause in causes]
    return str(cache) if any(path.is_relative_to(cache) or cache.is_relative_to(path) for path in paths) else None


def _reason(error: Exception) -> str:
    """Returns the reason of an error in one line. For failed conversions, the library states it only in the cause."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def _not_repeated(dataset: Dataset, columns: Sequence[str]) -> list[int]:
    """Returns the rows that do not equal an earlier row in these columns.

    It compares Arrow's values: 1.8 million rows take about ten seconds, but a hundred if converted to prompts first.
    """
    flat = dataset.flatten()  # gives dotted names to the fields of records
    names = {_stored(column, flat.column_names): None for column in columns}
    tables = flat.select_columns(list(names)).with_format("arrow").iter(batch_size=10_000)
    values = (row for table in tables for row in zip(*(c.to_pylist() for c in table.columns), strict=True))
    first: dict[str, int] = {}
    for i, row in enumerate(values):
        first.setdefault(repr(row), i)
    return list(first.values())


def _stored(column: str, names: Sequence[str]) -> str:
    """Returns the column, or the record that contains it if the record is stored as a whole (JSON of mixed types)."""
    while column not in names:
        column = column.rpartition(".")[0]
    return column
