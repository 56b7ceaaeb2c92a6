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

    def __call__(self, arguments: Mapping[str, Any]) -> str | list[str] | None:
        """Returns the next message, or None at the end of the conversation. A list with one text says why the function
        cannot be called with these arguments.

        Raises:
            TypeError: if the function returns anything else.
            UnicodeEncodeError: if the message contains half of a surrogate pair, which no tokenizer can read.
        """
        accepted = self._function.accepted(arguments)
        try:
            self._function.signature.bind(**accepted)
        except TypeError as error:
            return [f"the function cannot be called: {error}. It can have the parameters {', '.join(arguments)}"]
        message = self._function(accepted)
        if message is not None and not isinstance(message, str):
            raise TypeError(f"returned {message!r:.200}: return the next message as text, or None to end it")
        if message is not None:
            message.encode("utf-8")
        return message
