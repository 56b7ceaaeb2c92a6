"""Output on consoles that cannot show all characters."""

from __future__ import annotations

import codecs
import io
import sys


def show_all_characters() -> None:
    """Makes stdout and stderr show "+-" for "±" and "?" for other characters that their encoding lacks, so that
    printing a result never fails."""
    codecs.register_error("readable", _readable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="readable")


def _readable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join("+-" if character == "±" else "?" for character in text), error.end
