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

    A path is a dataset's id on the hub, a local folder (such as `hf download` leaves), or a local file, which is taken
    for the whole of the split asked for. Nothing is loaded before the first call; what was downloaded is kept in the
    library's cache. The source of a prompt is path, split and row, counted from 1.

    Args:
        train_path: None for data that is only evaluated.
        train_name, validation_name: the configuration (subset), for datasets with several.
        train_split, validation_split: also parts, `train[:1000]`.
        prompt_column, answer_column, answer_after: see `Columns`.
        unique: drop rows whose prompt and answer columns repeat an earlier row's, and log how many. DAPO-Math-17k holds
            each of its 17,917 rows 100 times, AIME-2024 each of its 30 rows 32 times.

    Raises:
        DataError: from the methods, naming the key or row and the remedy, if a split cannot be had or a row is unfit.
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
        """All rows of the train split."""
        if self.train_path is None:
            raise DataError(ONLY_EVALUATED)
        return self._prompts(_Split("train", self.train_path, self.train_name, self.train_split))

    def validation_prompts(self) -> Sequence[Prompt]:
        """All rows of the validation split."""
        return self._prompts(_Split("validation", self.validation_path, self.validation_name, self.validation_split))

    def _prompts(self, split: _Split) -> list[Prompt]:
        dataset = without_decoding(split.load())
        columns = Columns(self.prompt_column, self.answer_column, self.answer_after)
        rows: Sequence[int] = range(len(dataset))
        if self.unique:
            columns.read(dataset[0], split.source(0))  # tells of a missing column, which could not be compared
            rows = _not_repeated(dataset, [self.prompt_column, self.answer_column])
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
    """What data.<kind>_path, data.<kind>_name and data.<kind>_split name."""

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
        except Exception as error:  # the library's own, its network client's, Arrow's: there is no common type
            raise DataError(self._why(error)) from None
        try:
            return builder.as_dataset(split=self.split)
        except ValueError as error:
            raise DataError(
                f"data.{self.kind}_split={self.split}: cannot be had from {self.path} ({_reason(error)}). "
                f"Set data.{self.kind}_split."
            ) from None

    def _builder(self) -> DatasetBuilder:
        import datasets

        file = Path(self.path).expanduser()
        if not file.is_file():
            return datasets.load_dataset_builder(self.path, self.name)
        kind = KINDS.get(file.suffix.lower())
        if kind is None:
            raise DataError(
                f"data.{self.kind}_path={self.path}: the ending of a single file must be one of {', '.join(KINDS)}. "
                "Read others with data=jsonl, or name a folder."
            )
        whole, _, _ = self.split.partition("[")
        return datasets.load_dataset_builder(kind, data_files={whole: str(file)})

    def _why(self, error: Exception) -> str:
        from datasets.exceptions import DatasetNotFoundError, DatasetsError

        if cache := _unwritable_cache(error):
            return f"data=hub keeps what it reads in {cache}, which cannot be written ({_reason(error)}): set HF_HOME."
        where, reason = f"data.{self.kind}_path={self.path}", _reason(error)
        if isinstance(error, DatasetNotFoundError):
            return f"{where}: {reason}. Correct the id; if it is private or gated, log in first with `hf auth login`."
        path = Path(self.path).expanduser()
        is_local = path.exists() or path.is_absolute() or self.path.count("/") > 1
        if is_local or isinstance(error, DatasetsError | ValueError | RuntimeError):
            name = "null" if self.name is None else self.name
            return (
                f"{where} with data.{self.kind}_name={name}: cannot be loaded ({reason}). "
                "Set both keys to a dataset and a part of it that exist, or fix the files."
            )
        return (
            f"{where}: is no folder or file here, and the hub cannot be reached ({reason}). Offline? Download it once "
            f"with `hf download --repo-type dataset {self.path} --local-dir DIR` on a machine with a network and set "
            f"data.{self.kind}_path=DIR, or use data=jsonl with files of your own."
        )


def _unwritable_cache(error: Exception) -> str | None:
    """The cache of the library, if the error is about a file in it or a folder above it."""
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE).expanduser().absolute()
    causes = (cause for cause in (error, error.__cause__) if isinstance(cause, OSError) and cause.filename)
    paths = [Path(os.fsdecode(cause.filename)).absolute() for cause in causes]
    return str(cache) if any(path.is_relative_to(cache) or cache.is_relative_to(path) for path in paths) else None


def _reason(error: Exception) -> str:
    """One line: the library tells the cause of a failed conversion only in the cause, and often at length."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def _not_repeated(dataset: Dataset, columns: Sequence[str]) -> list[int]:
    """The rows that are not equal in these columns to an earlier one.

    Compares what Arrow holds: 1.8 million rows take some ten seconds, made into prompts first a hundred.
    """
    flat = dataset.flatten()  # dotted names for the fields of records
    names = {_stored(column, flat.column_names): None for column in columns}
    tables = flat.select_columns(list(names)).with_format("arrow").iter(batch_size=10_000)
    values = (row for table in tables for row in zip(*(c.to_pylist() for c in table.columns), strict=True))
    first: dict[str, int] = {}
    for i, row in enumerate(values):
        first.setdefault(repr(row), i)
    return list(first.values())


def _stored(column: str, names: Sequence[str]) -> str:
    """The column, or the record that holds it, if that is stored as a whole (JSON of mixed types)."""
    while column not in names:
        column = column.rpartition(".")[0]
    return column
