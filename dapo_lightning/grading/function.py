"""The user's own reward function, called with lists."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any


class Caller:
    """Calls the function named by a dotted path; an async function is run to its end.

    Raises:
        ValueError: if the path cannot be imported or is no function.
    """

    def __init__(self, path: str):
        self._path, self._function = path, imported(path)

    def __call__(self, arguments: Mapping[str, list[Any]]) -> list[float]:
        """Lists by name, one entry per completion -> one number per completion.

        Raises:
            ValueError: if it returns anything else.
        """
        scores = self._function(**arguments)
        if inspect.isawaitable(scores):
            scores = asyncio.run(_wait(scores))
        scores, count = list(scores), len(arguments["completions"])
        if len(scores) != count:
            raise ValueError(f"returned {len(scores)} scores for {count} completions")
        try:
            return [float(score) for score in scores]
        except (TypeError, ValueError):
            raise ValueError(f"returned {scores!r:.200}: every score must be a number") from None


async def _wait(scores: Any) -> Any:
    return await scores


def imported(path: str) -> Callable[..., Any]:
    """The function named by a dotted path.

    Raises:
        ValueError: with the remedy.
    """
    module_name, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"reward.path={path}: cannot be imported ({error}). Give the dotted path of a function in a module "
            "that `python` finds from this folder, such as my_module.my_reward."
        ) from error
    if not callable(function):
        raise ValueError(f"reward.path={path}: is a {type(function).__name__}, not a function.")
    return function
