"""The user's own reward: a Python function named by its dotted path."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dapo_lightning.reward import RewardError
from dapo_lightning.types import Grade, Prompt


@dataclass(frozen=True)
class Function:
    """Calls `function(completions=[...], prompts=[...], answers=[...], **columns)`, every argument a list with
    one entry per completion, and expects a list of as many numbers.

    Args:
        path: dotted path, `my_package.my_module.my_function`.
        correct_above: a completion is correct, for accuracy and the keep rule, iff its score exceeds this.

    Raises:
        ValueError: if the path cannot be imported.
        RewardError: if the function raises or returns anything but one number per completion.
    """

    path: str
    correct_above: float = 0.0
    _function: Callable[..., Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_function", _import(self.path))

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Grade]:
        """One grade per completion, in order."""
        columns = {name: [prompt.columns.get(name) for prompt in prompts] for name in prompts[0].columns}
        where = f"reward function {self.path} on {prompts[0].source} ({prompts[0].text[:60]!r})"
        try:
            scores = list(
                self._function(
                    completions=list(completions),
                    prompts=[prompt.text for prompt in prompts],
                    answers=[prompt.answer for prompt in prompts],
                    **columns,
                )
            )
        except Exception as error:
            raise RewardError(f"{where} raised {type(error).__name__}: {error}") from error
        if len(scores) != len(completions):
            raise RewardError(f"{where} returned {len(scores)} scores for {len(completions)} completions.")
        try:
            return [Grade(score=float(score), correct=float(score) > self.correct_above) for score in scores]
        except (TypeError, ValueError) as error:
            raise RewardError(f"{where} returned {scores!r:.200}: every score must be a number.") from error


def _import(path: str) -> Callable[..., Any]:
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
