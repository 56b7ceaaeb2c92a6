"""Conversion of a row into a prompt, the same for every file format and for the hub."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dapo_lightning.data import DataError
from dapo_lightning.types import Prompt

ROLES = ("system", "user", "assistant", "tool")

_OTHER_MARKER = " or another marker with \"data.answer_after='####'\" (both pairs of quotes are needed in a shell)"


@dataclass(frozen=True)
class Columns:
    """Says which columns of a row hold the prompt and the answer.

    A dotted name is a path into a record (`reward_model.ground_truth`), unless a column has exactly that name.

    Args:
        prompt: holds text, or a chat: a list of messages with `role` and `content`, the last one from the user.
        answer: holds text, which is kept unchanged, or a number. Whole numbers are written without a fraction
            (3.0 becomes "3"), because integer columns with missing values are stored as floats.
        answer_after: if set, the answer is only the text after the last occurrence of this marker, stripped of
            white space (GSM8K: "####").
    """

    prompt: str = "prompt"
    answer: str = "answer"
    answer_after: str | None = None

    def read(self, row: Mapping[str, Any], source: str) -> Prompt:
        """Return the row as a prompt.

        Its `columns`, for rewards, are all other columns. A record that holds the prompt or the answer is kept among
        them, and so is the answer column if `answer_after` cuts it.

        Raises:
            DataError: naming the source, the column and the remedy, if a column is missing or holds something else.
        """
        column, remedy = self.prompt, "data.prompt_column=..."
        try:
            text, messages = _read_prompt(_find(row, self.prompt))
            column, remedy = self.answer, "data.answer_column=..." + (_OTHER_MARKER if self.answer_after else "")
            answer = self._cut(_as_text(_find(row, self.answer)))
        except _UnfitError as error:
            raise DataError(
                f"{source}: column {column!r} {error}; the row has the columns {sorted(_column_names(row))}. "
                f"Fix the row, or choose another column with {remedy}"
            ) from None
        used = {self.prompt} if self.answer_after else {self.prompt, self.answer}
        columns = {name: value for name, value in row.items() if name not in used}
        return Prompt(text=text, answer=answer, source=source, columns=columns, messages=messages)

    def _cut(self, answer: str) -> str:
        if not self.answer_after:
            return answer
        _, marker, after = answer.rpartition(self.answer_after)
        if not after.strip() or not marker:
            problem = "has nothing after" if marker else "does not contain"
            raise _UnfitError(f"{problem} {self.answer_after!r} (data.answer_after)")
        return after.strip()


class _UnfitError(Exception):
    """Says what is wrong with a value, as the end of a sentence that begins with its column."""


def _column_names(row: Mapping[str, Any]) -> Iterator[str]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in _column_names(value))
        else:
            yield name


def _find(row: Mapping[str, Any], column: str) -> Any:
    value: Any = row
    for name in [column] if column in row else column.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _read_prompt(value: Any) -> tuple[str, tuple[Mapping[str, str], ...]]:
    if not isinstance(value, list):
        return _as_text(value), ()
    messages = tuple(_as_message(message) for message in value)
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise _UnfitError("holds a chat that does not end with a message from the user")
    return messages[-1]["content"], messages


def _as_text(value: Any) -> str:
    if value is None:
        raise _UnfitError("is missing or null")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:  # larger floats do not hold every digit
        value = int(value)
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise _UnfitError(f"holds a {type(value).__name__}, not text or a number")
    if not str(value).strip() or (isinstance(value, float) and not math.isfinite(value)):
        raise _UnfitError("is empty or not a number")
    return str(value)


def _as_message(message: Any) -> Mapping[str, str]:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise _UnfitError("is a list, but not one of chat messages with role and content")
    if message["role"] not in ROLES:
        raise _UnfitError(f"holds a chat with the role {message['role']!r}, which is none of {', '.join(ROLES)}")
    if not isinstance(message["content"], str):
        raise _UnfitError(f"holds a chat in which the content of a message with role {message['role']} is not text")
    return {"role": message["role"], "content": message["content"]}
