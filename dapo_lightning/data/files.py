"""Prompts from your own files: JSON lines, parquet or CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dapo_lightning.data import DataError
from dapo_lightning.data.columns import Columns
from dapo_lightning.data.media import without_decoding
from dapo_lightning.types import Prompt

ONLY_EVALUATED = (
    "data.train_path=null: there is nothing to train on, so this data can only be evaluated (mode=evaluate). "
    "Set data.train_path, or choose another data=..."
)


@dataclass(frozen=True)
class Files:
    """One file of train rows, if any, and one file of held-out rows. The extension determines how a file is read.

    JSON lines (.jsonl, .json) contain one object per line; a file may also be one array of objects. The cells of a CSV
    file are text, exactly as written. The source of a prompt is its file with the line number (JSON lines) or the row
    number, counted from 1.

    Args:
        train_path: None for data that is only evaluated.
        prompt_column, answer_column, answer_after: see `Columns`.

    Raises:
        DataError: from the methods, naming file, row and remedy, if a file cannot be read or a row cannot be used.
    """

    train_path: str | None
    validation_path: str
    prompt_column: str = "prompt"
    answer_column: str | None = "answer"
    answer_after: str | None = None

    def train_prompts(self) -> Sequence[Prompt]:
        """Returns all rows of train_path."""
        if self.train_path is None:
            raise DataError(ONLY_EVALUATED)
        return self._read(self.train_path)

    def validation_prompts(self) -> Sequence[Prompt]:
        """Returns all rows of validation_path."""
        return self._read(self.validation_path)

    def _read(self, path: str) -> list[Prompt]:
        reader = _READERS.get(Path(path).suffix.lower())
        if reader is None:
            raise DataError(
                f"{path}: the extension is none of {', '.join(_READERS)}, so it cannot be read. "
                "Set data.train_path and data.validation_path to such files."
            )
        columns = Columns(self.prompt_column, self.answer_column, self.answer_after)
        file = str(Path(path).expanduser())
        try:
            return _with_all_columns([columns.read(row, f"{path}:{number}") for number, row in reader(file)])
        except DataError:
            raise
        except (
            OSError,
            ValueError,
            csv.Error,
        ) as error:  # it is missing, not UTF-8 or not parquet, or its quotes do not match
            raise DataError(
                f"{path}: cannot be read ({error}). Correct the file, or data.train_path or data.validation_path."
            ) from None


def _with_all_columns(prompts: list[Prompt]) -> list[Prompt]:
    """Adds missing columns, so that every prompt has all columns that any prompt has; missing values are None."""
    names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
    return [
        prompt
        if len(prompt.columns) == len(names)
        else replace(prompt, columns={name: prompt.columns.get(name) for name in names})
        for prompt in prompts
    ]


def _json_lines(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text = Path(path).read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):  # one array, as many tools write it
        rows: Iterator[tuple[int, Any]] = enumerate(_json(text, path), 1)
    else:
        lines = text.split("\n")  # not splitlines: text may hold other separators
        rows = ((number, _json(line, f"{path}:{number}")) for number, line in enumerate(lines, 1) if line.strip())
    for number, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected an object with named columns, found a {type(row).__name__}.")
        yield number, row


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise DataError(
            f"{place}: not valid JSON ({error.msg} at {where}). Each line must be one object, or the file one array."
        ) from None
    except RecursionError:
        raise DataError(f"{place}: the row is nested too deeply to be read. Remove such values.") from None
    except ValueError as error:
        raise DataError(f"{place}: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for n, (name, _) in enumerate(pairs) if name in dict(pairs[:n]))
        raise ValueError(f"the name {twice!r} occurs twice in an object. Rename one of them.")
    return found


def _csv(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # The datasets library is not used: it guesses types, and if a comma is not quoted, it may shift all cells by one.
    csv.field_size_limit(2**31 - 1)  # the default, 131,072 characters, is less than a long solution
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        header = rows.fieldnames or []
        if len(set(header)) < len(header):
            raise DataError(f"{path}: a column occurs twice in the header: {header}. Rename one of them.")
        for number, row in enumerate(rows, 1):
            if None in row or None in row.values():
                raise DataError(
                    f"{path}:{number}: the row has more or fewer cells than the header {header}. "
                    'Put cells that contain commas, quotes or line breaks into "quotes".'
                )
            yield number, row


def _parquet(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import datasets
    import pyarrow.parquet

    rows = datasets.Dataset(pyarrow.parquet.ParquetFile(path).read())  # reads the files that this library writes
    yield from enumerate(without_decoding(rows), 1)


_READERS = {".jsonl": _json_lines, ".json": _json_lines, ".parquet": _parquet, ".csv": _csv}
