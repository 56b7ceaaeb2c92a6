"""Whether the output of a program is the expected one."""

from __future__ import annotations

import math
from collections.abc import Callable

_TOLERANCE = 1e-6  # relative, and absolute for numbers below 1


def same_text(output: str, expected: str) -> bool:
    """Whether the lines are the same, apart from white space at the end of each line and at the end of the text."""
    left, right = ([line.rstrip() for line in text.rstrip().split("\n")] for text in (output, expected))
    return left == right


def same_tokens(output: str, expected: str) -> bool:
    """Whether the words between white space are the same."""
    return output.split() == expected.split()


def same_numbers(output: str, expected: str) -> bool:
    """Whether the words are the same, or are numbers that differ by at most 1e-6, relatively or absolutely."""
    left, right = output.split(), expected.split()
    return len(left) == len(right) and all(map(_same_word, left, right))


def _same_word(word: str, expected: str) -> bool:
    if word == expected:
        return True
    try:
        number, reference = float(word), float(expected)
    except ValueError:
        return False
    return math.isclose(number, reference, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


COMPARISONS: dict[str, Callable[[str, str], bool]] = {
    "exact": same_text,
    "tokens": same_tokens,
    "numbers": same_numbers,
}
