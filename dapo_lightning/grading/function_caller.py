"""The user's own reward function, called as TRL calls one: with lists, by name."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dapo_lightning.grading import load

_CHAT = (
    "The prompts are chats, so `completions` holds lists of messages, as in TRL: read completion[0]['content'], or "
    "annotate the parameter as `completions: list[str]` to receive text"
)


class FunctionCaller:
    """Calls the function named by a dotted path with the arguments that it takes; an async function runs to its end.

    Completions of text prompts are text. Completions of chat prompts are messages, as in TRL: `[{"role": "assistant",
    "content": text}]`. A function that takes `answers`, which TRL does not know, or annotates `completions: list[str]`
    always receives text.

    Raises:
        ValueError: if the path cannot be imported or called.
    """

    def __init__(self, path: str):
        self._function = load_function(path)
        try:
            self._signature = inspect.signature(self._function)
        except ValueError:  # some functions written in C do not have one
            self._signature = inspect.signature(lambda **_: None)
        parameters = self._signature.parameters
        annotation = getattr(parameters.get("completions"), "annotation", "")
        spelling = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        self._reads_text = "answers" in parameters or spelling.endswith("[str]")

    def __call__(self, arguments: Mapping[str, list[Any]]) -> list[float]:
        """Lists by name, one entry per completion -> one number per completion.

        Raises:
            ValueError: if the function takes what is not there, or returns anything but numbers.
        """
        count = len(arguments["completions"])
        scores = list(self._call(arguments))
        if len(scores) != count:
            raise ValueError(f"returned {len(scores)} scores for {count} completions")
        try:
            return [float(score) for score in scores]
        except (TypeError, ValueError):
            raise ValueError(f"returned {scores!r:.200}: every score must be a number") from None

    def _call(self, arguments: Mapping[str, list[Any]]) -> Any:
        accepted = self._accepted(arguments)
        is_chat = not self._reads_text and not all(isinstance(prompt, str) for prompt in arguments["prompts"])
        if is_chat and "completions" in accepted:
            pairs = zip(arguments["prompts"], arguments["completions"], strict=True)
            accepted["completions"] = [text if isinstance(prompt, str) else _message(text) for prompt, text in pairs]
        try:
            scores = self._function(**accepted)
            return asyncio.run(_wait(scores)) if inspect.isawaitable(scores) else scores
        except (AttributeError, TypeError) as error:
            if not is_chat:
                raise
            raise ValueError(f"{type(error).__name__}: {error}. {_CHAT}") from error

    def _accepted(self, arguments: Mapping[str, list[Any]]) -> dict[str, Any]:
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in self._signature.parameters.values())
        accepted = {name: lists for name, lists in arguments.items() if takes_all or name in self._signature.parameters}
        try:
            self._signature.bind(**accepted)
        except TypeError as error:
            raise ValueError(
                f"the function cannot be called: {error}. Give the parameter a default value, or one of these names: "
                f"{', '.join(sorted(arguments))}; data.answer_column names the column of the answers"
            ) from None
        return accepted


def load_function(path: str) -> Callable[..., Any]:
    """Imports the function that a dotted path names; if it is a class, makes an instance of it.

    Raises:
        ValueError: with the remedy.
    """
    try:
        function = load(path)
        if inspect.isclass(function):
            function = function()
    except TypeError as error:
        raise ValueError(
            f"reward.path={path}: the class needs arguments ({error}). Give the path of an instance or a function."
        ) from error
    except ValueError as error:
        raise ValueError(f"reward.path={path}: {error}") from error
    if not callable(function):
        raise ValueError(f"reward.path={path}: is a {type(function).__name__}, not a function.")
    return function


def _message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


async def _wait(scores: Any) -> Any:
    return await scores
