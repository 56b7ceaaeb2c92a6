"""Calls the user's own environment: a function that returns the next message of a conversation, or ends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dapo_lightning.grading.user_function import UserFunction


class ReplyCaller:
    """Calls the function at a dotted path with the arguments that are among its parameters.

    Raises:
        ValueError: if the path cannot be imported or called.
    """

    def __init__(self, path: str):
        self._function = UserFunction(path)

    def __call__(self, arguments: Mapping[str, Any]) -> str | None:
        """Returns the next message, or None at the end of the conversation.

        Raises:
            TypeError: if the function returns anything else.
        """
        message = self._function(self._function.accepted(arguments))
        if message is not None and not isinstance(message, str):
            raise TypeError(f"returned {message!r:.200}: return the next message as text, or None to end it")
        return message
