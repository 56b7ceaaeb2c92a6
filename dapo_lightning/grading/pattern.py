"""The regular expression that finds an answer."""

from __future__ import annotations

import re


def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression of an answer.

    Raises:
        ValueError: if it is none, or does not have one group.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"reward.pattern={pattern!r} is no regular expression: {error}.") from error
    if expression.groups != 1:
        raise ValueError(f"reward.pattern={pattern!r} needs one group, the answer, but has {expression.groups}.")
    return expression
