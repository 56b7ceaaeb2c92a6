"""Converts the columns of a row into a prompt, in the same way for every kind of file."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dapo_lightning.data import DataError
from dapo_lightning.types import Prompt

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Columns:
    """Which columns of a row hold the prompt and the answer.

    A column is given by its name, or by a dotted path into records (`reward_model.ground_truth`).

    Args:
        prompt: column of text, or of chats: lists of messages with `role` and `content`, the last one from the user.
        answer: column of text, which is not changed, or of numbers. Whole numbers are written without a fraction
            (3.0 becomes "3"), because a column of integers with missing values is stored as floats. None: the answer is
            empty, and the reward uses other columns.
        answer_after: the answer is only the text after the last occurrence of this marker, without white space
            around it (GSM8K: "####").
    """

    prompt: str = "prompt"
    answer: str | None = "answer"
    answer_after: str | None = None

    def read(self, row: Mapping[str, Any], source: str) -> Prompt:
        """Returns the row as a prompt. All other columns are kept for rewards. They include a record that contains the
        prompt or the answer, and an answer column that contains more than the answer.

        Raises:
            DataError: naming the source, the column and the remedy, if a column is missing or has an unsuitable value.
        """
        messages: tuple[Mapping[str, str], ...] = ()
        with _named(row, source, self.prompt, "data.prompt_column"):
            value = _find(row, self.prompt)
            if isinstance(value, list):
                messages = tuple(_message(message) for message in value)
                text = _last_words(messages)
            else:
                text = _text(value)
        answer = ""
        if self.answer is not None:
            with _named(row, source, self.answer, "data.answer_column"):
                answer = self._cut(_text(_find(row, self.answer)))
        used = {self.prompt} if self.answer_after else {self.prompt, self.answer}
        columns = {name: value for name, value in row.items() if name not in used}
        return Prompt(text=text, answer=answer, source=source, columns=columns, messages=messages)

    def _cut(self, answer: str) -> str:
        if not self.answer_after:
            return answer
        _, marker, after = answer.rpartition(self.answer_after)
        if not marker:
            raise _UnfitError(f"does not contain {self.answer_after!r} (data.answer_after)")
        if not after.strip():
            raise _UnfitError(f"contains nothing after {self.answer_after!r} (data.answer_after)")
        return after.strip()


class _UnfitError(Exception):
    """Says what is wrong with a value. The message completes a sentence that starts with the column."""


@contextmanager
def _named(row: Mapping[str, Any], source: str, column: str, key: str) -> Iterator[None]:
    try:
        yield
    except _UnfitError as error:
        raise DataError(
            f"{source}: column {column!r} {error}; the row has {sorted(_names(row))}. "
            f"Fix the row, or choose another column with {key}=..."
        ) from None


def _names(row: Mapping[str, Any]) -> Iterator[str]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in _names(value))
        else:
            yield name


def _find(row: Mapping[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    if value is None:
        raise _UnfitError("is missing or null")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:  # larger floats may have lost digits
        value = int(value)
    if isinstance(value, float) and math.isfinite(value) and abs(value) >= 2**53:
        raise _UnfitError(f"contains {value}, a float so large that digits may have been lost (write it as text)")
    if isinstance(value, datetime.date | datetime.time):
        raise _UnfitError(
            f"contains a {type(value).__name__}, perhaps because the datasets library has converted text to one "
            "(data=jsonl reads the same files without conversion)"
        )
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise _UnfitError(f"contains a {type(value).__name__}, not text or a number")
    if not str(value).strip() or (isinstance(value, float) and not math.isfinite(value)):
        raise _UnfitError("is empty or not a number")
    return str(value)


def _message(message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise _UnfitError("is a list, but its items are not chat messages with role and content")
    if message["role"] not in ROLES:
        raise _UnfitError(f"contains a chat with the role {message['role']!r}, which is none of {', '.join(ROLES)}")
    if not isinstance(message["content"], str):
        raise _UnfitError(f"contains a chat with a message of the {message['role']} whose content is not text")
    return {"role": message["role"], "content": message["content"]}


def _last_words(messages: tuple[Mapping[str, str], ...]) -> str:
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise _UnfitError("contains a chat that does not end with a message of the user")
    return messages[-1]["content"]
