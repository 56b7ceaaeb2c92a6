"""Over a hundred procedural tasks with verifiable answers, from the package reasoning-gym (arXiv 2505.24760)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from dapo_lightning.data import DataError
from dapo_lightning.types import Prompt

# The package makes item i of seed s from s + i, so seeds must be further apart than a dataset is long.
_SEED_STRIDE = 100_000_007


@dataclass(frozen=True)
class ReasoningGym:
    """Generates items of one task. Held-out questions have their own seeds and never repeat a training question.

    Args:
        task: its name in the package, such as chain_sum or gsm_symbolic.
        options: the task's own settings, such as {min_terms: 2, max_digits: 2}.
        seed: determines the items; the seed of the run determines their order.

    Raises:
        DataError: if the package is not installed, does not know the task or an option, or the task is too small.
    """

    task: str
    num_train: int
    num_validation: int
    seed: int
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        try:
            from reasoning_gym.factory import DATASETS  # takes a second, so only if this option is chosen
        except ModuleNotFoundError as error:
            raise DataError(
                f"data=reasoning_gym needs the package reasoning-gym ({error}). "
                'Install it with `pip install "dapo-lightning[reasoning-gym]"`, or choose another data=...'
            ) from None
        if self.task not in DATASETS:
            near = ", ".join(get_close_matches(self.task, DATASETS, 3, 0.5)) or ", ".join(sorted(DATASETS)[:8])
            raise DataError(f"data.task={self.task}: reasoning-gym has no such task. Choose another, such as {near}.")

    def train_prompts(self) -> Sequence[Prompt]:
        """Return `num_train` items."""
        return self._generate(0, self.num_train, "train")

    def validation_prompts(self) -> Sequence[Prompt]:
        """Return `num_validation` items whose questions differ from each other and from all training questions."""
        seen = {prompt.text for prompt in self.train_prompts()}
        found: dict[str, Prompt] = {}
        for prompt in self._generate(self.num_train, 4 * self.num_validation, "validation"):
            if prompt.text not in seen:
                found.setdefault(prompt.text, prompt)
        if len(found) < self.num_validation:
            raise DataError(
                f"data.num_validation={self.num_validation}: data.task={self.task} with data.options={self.options} "
                f"has only {len(found)} questions left beside the {self.num_train} to train on. Widen the options, or "
                "lower data.num_train."
            )
        return list(found.values())[: self.num_validation]

    def _generate(self, first: int, count: int, split: str) -> list[Prompt]:
        from reasoning_gym import create_dataset

        try:
            seed = self.seed * _SEED_STRIDE + first
            dataset = create_dataset(self.task, seed=seed, size=count, **(self.options or {}))
            return [_as_prompt(dataset[i], f"reasoning_gym:{self.task}/{split}:{i}") for i in range(count)]
        except (TypeError, ValueError, AssertionError) as error:
            raise DataError(f"data.options={self.options}: the task {self.task} refuses them ({error}).") from None


def _as_prompt(item: Mapping[str, Any], source: str) -> Prompt:
    """Return the item as a prompt; if a task has no single answer, its scorer reads the other columns."""
    answer = "" if item["answer"] is None else str(item["answer"])
    return Prompt(item["question"], answer, source, columns=dict(item))
