"""What the doctor finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A fault of the data, the reward or the settings.

    Args:
        kind: a name for programs, such as "unreadable".
        sentence: what was found, in numbers, and the remedy.
        rows: the rows that show it, each with what a person needs to see.
    """

    kind: str
    sentence: str
    rows: tuple[str, ...] = ()


def found(kind: str, sentence: str, rows: Iterable[str] = ()) -> list[Finding]:
    """Returns a finding."""
    return [Finding(kind, sentence, tuple(rows))]


def quoted(text: str, length: int = 60) -> str:
    """Returns the beginning of a text for a line of a list."""
    return repr(text if len(text) <= length else f"{text[:length]}…")
