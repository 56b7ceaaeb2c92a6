"""Prompts from JSON-lines files: one object per line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dapo_lightning.data import DataError
from dapo_lightning.types import Prompt


@dataclass(frozen=True)
class JSONLines:
    """Reads `prompt` and `answer` from the named columns; all other columns are handed to the reward.

    Raises:
        DataError: naming file, line and remedy, for anything but an object with both columns as text or numbers.
    """

    train_path: str
    validation_path: str
    prompt_column: str = "prompt"
    answer_column: str = "answer"

    def train_prompts(self) -> Sequence[Prompt]:
        """All rows of train_path."""
        return self._read(self.train_path)

    def validation_prompts(self) -> Sequence[Prompt]:
        """All rows of validation_path."""
        return self._read(self.validation_path)

    def _read(self, path: str) -> list[Prompt]:
        try:
            lines = Path(path).read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: cannot be read ({error}). Set data.train_path and data.validation_path."
            ) from None
        return [self._prompt(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]

    def _prompt(self, line: str, source: str) -> Prompt:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{source}: not valid JSON ({error.msg} at column {error.colno}).") from None
        if not isinstance(row, dict):
            raise DataError(f"{source}: expected an object with named columns, found a {type(row).__name__}.")
        values = []
        for column, key in ((self.prompt_column, "prompt_column"), (self.answer_column, "answer_column")):
            value = row.get(column)
            if not isinstance(value, str | int | float) or isinstance(value, bool) or not str(value).strip():
                raise DataError(
                    f"{source}: column {column!r} is missing, empty or not text; the row has {sorted(row)}. "
                    f"Mend the row, or name another column with data.{key}=..."
                )
            values.append(str(row.pop(column)))
        return Prompt(text=values[0], answer=values[1], source=source, columns=row)
