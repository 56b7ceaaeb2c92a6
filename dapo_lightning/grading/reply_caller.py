"""Calls the user's own environment: a function that returns the next message of a conversation, or ends it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any

from dapo_lightning.grading.function_caller import load_function


class ReplyCaller:
    """Calls the function at a dotted path with the arguments that are among its parameters; it may be async, a class
    with `__call__`, or an instance.

    Raises:
        ValueError: if the path cannot be imported or called.
    """

    def __init__(self, path: str):
        self._runner = asyncio.Runner()
        asyncio.set_event_loop(self._runner.get_loop())  # for modules that ask for it when they are imported
        self._function = load_function(path)
        self._parameters = inspect.signature(self._function).parameters
        self._takes_all = any(one.kind is one.VAR_KEYWORD for one in self._parameters.values())

    def __call__(self, arguments: Mapping[str, Any]) -> str | None:
        """Returns the next message, or None at the end of the conversation.

        Raises:
            TypeError: if the function returns anything else.
        """
        accepted = {name: value for name, value in arguments.items() if self._takes_all or name in self._parameters}
        message = self._function(**accepted)
        if inspect.isawaitable(message):
            message = self._runner.run(_wait(message))
        if message is not None and not isinstance(message, str):
            raise TypeError(f"returned {message!r:.200}: return the next message as text, or None to end it")
        return message


async def _wait(message: Any) -> Any:
    return await message
