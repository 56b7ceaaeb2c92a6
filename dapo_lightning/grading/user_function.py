"""The user's own function, given by its dotted path."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dapo_lightning.grading import load


class UserFunction:
    """A function, an async function, an instance with `__call__`, or a class with one, of which an instance is made.

    All calls of an async function run in one event loop, because locks, clients and tasks of its module are bound to
    the loop in which they are first used.

    Raises:
        ValueError: if the path cannot be imported or called.
    """

    def __init__(self, path: str):
        self._runner = asyncio.Runner()
        asyncio.set_event_loop(self._runner.get_loop())  # for modules that ask for it when they are imported
        self._function = _load_function(path)
        try:
            self.signature = inspect.signature(self._function)
        except ValueError:  # some functions written in C do not have one
            self.signature = inspect.signature(lambda **_: None)

    def accepted(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that are among the parameters of the function."""
        parameters = self.signature.parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        return {name: value for name, value in arguments.items() if takes_all or name in parameters}

    def __call__(self, arguments: Mapping[str, Any]) -> Any:
        """Calls the function with these arguments, and waits for its result if it is async."""
        result = self._function(**arguments)
        return self._runner.run(_wait(result)) if inspect.isawaitable(result) else result


def _load_function(path: str) -> Callable[..., Any]:
    """Imports the function with a dotted path; if it is a class, creates an instance of it.

    Raises:
        ValueError: with the remedy.
    """
    try:
        function = load(path)
    except ValueError as error:
        hint = ""
        if isinstance(error.__cause__, KeyError | OSError):
            hint = " Environment variables, files and the network are only there if reward.allow names them."
        raise ValueError(f"reward.path={path}: {error}{hint}") from error
    if inspect.isclass(function):
        function = _instance(function, path)
    if inspect.isfunction(function) and next(iter(inspect.signature(function).parameters), "") == "self":
        raise ValueError(f"reward.path={path}: is a method of a class. Create an instance in the module, and give the "
                         "path of its method.")  # fmt: skip
    if not callable(function):
        raise ValueError(f"reward.path={path}: is a {type(function).__name__}, not a function.")
    return function


def _instance(kind: type, path: str) -> Any:
    try:
        return kind()
    except TypeError as error:
        raise ValueError(
            f"reward.path={path}: the class needs arguments ({error}). Give the path of an instance or a function."
        ) from error
    except Exception as error:
        raise ValueError(f"reward.path={path}: the class raised {type(error).__name__}: {error}") from error


async def _wait(result: Any) -> Any:
    return await result
