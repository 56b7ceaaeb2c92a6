"""Calls the user's own reward function as TRL does: with lists, as keyword arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Set
from typing import Any

from dapo_lightning.grading.user_function import UserFunction

_CHAT = (
    "The prompts are chats, so `completions` holds lists of messages, as in TRL: read completion[0]['content'], or "
    "annotate the parameter as `completions: list[str]` to receive text"
)


class UnfitError(Exception):
    """The function cannot be called with the available arguments, whatever the completions are."""


class FunctionCaller:
    """Calls the function at a dotted path with the arguments that it accepts.

    Completions of text prompts are text. Completions of chat prompts are messages, as in TRL: `[{"role": "assistant",
    "content": text}]`. A function that has the parameter `answers`, which TRL does not have, or annotates
    `completions: list[str]` always receives text.

    Raises:
        ValueError: if the path cannot be imported or called.
    """

    def __init__(self, path: str):
        self._function = UserFunction(path)
        parameters = self._function.signature.parameters
        annotation = getattr(parameters.get("completions"), "annotation", "")
        spelling = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        self._reads_text = "answers" in parameters or spelling.endswith("[str]")

    def __call__(self, arguments: Mapping[str, list[Any]]) -> list[float | str] | str:
        """Maps lists by name, with one entry per completion, to one number per completion, or to a text that says what
        is wrong with its score.

        If a text is returned instead of a list, it says why the function cannot be used, whatever the completions are.
        """
        count = len(arguments["completions"])
        try:
            scores = self._call(arguments)
        except UnfitError as error:
            return str(error)
        # Iterating over text, sets and mappings gives characters, scores in any order, and keys.
        if isinstance(scores, Mapping | Set | str | bytes) or not hasattr(scores, "__iter__"):
            return f"returned {scores!r:.200}: return a list with one number per completion"
        scores = list(scores)
        if len(scores) != count:
            return f"returned {len(scores)} scores for {count} completions"
        return [_number(score) for score in scores]

    def _call(self, arguments: Mapping[str, list[Any]]) -> Any:
        accepted = self._accepted(arguments)
        is_chat = not self._reads_text and not all(isinstance(prompt, str) for prompt in arguments["prompts"])
        if is_chat and "completions" in accepted:
            pairs = zip(arguments["prompts"], arguments["completions"], strict=True)
            accepted["completions"] = [text if isinstance(prompt, str) else _message(text) for prompt, text in pairs]
        try:
            return self._function(accepted)
        except (AttributeError, TypeError) as error:
            if not is_chat:
                raise
            raise ValueError(f"{type(error).__name__}: {error}. {_CHAT}") from error

    def _accepted(self, arguments: Mapping[str, list[Any]]) -> dict[str, Any]:
        accepted = self._function.accepted(arguments)
        try:
            self._function.signature.bind(**accepted)
        except TypeError as error:
            raise UnfitError(
                f"the function cannot be called: {error}. Give the parameter a default value, or one of these names: "
                f"{', '.join(sorted(arguments))}; data.answer_column names the column of the answers"
            ) from None
        return accepted


def _number(score: Any) -> float | str:
    try:
        return float(score)
    except (TypeError, ValueError, OverflowError):
        return f"returned {score!r:.200}: every score must be a number"


def _message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
