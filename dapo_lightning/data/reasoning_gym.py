"""Procedural, verifiable tasks from the reasoning-gym package (arXiv 2505.24760): over a hundred, and offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar

from dapo_lightning.data import DataError
from dapo_lightning.types import Prompt

# The package generates item i of seed s from s + i, so seeds must differ by more than the length of a dataset.
_SEED_STRIDE = 100_000_007


@dataclass(frozen=True)
class ReasoningGym:
    """Items of one task. Held-out questions are generated with their own seed and never repeat a train question.

    Args:
        task: its name in the package, such as chain_sum or gsm_symbolic.
        options: the task's own settings, such as {min_terms: 2, max_digits: 2}.
        seed: seed of the items; the seed of the run determines their order.

    Raises:
        DataError: for a task or an option that the package does not know, and for a task that has too few questions to
            hold some out.
    """

    repeats_prompts: ClassVar[bool] = True  # they are drawn at random
    task: str
    num_train: int
    num_validation: int
    seed: int
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        from reasoning_gym.factory import DATASETS  # takes a second, so it is imported only when needed

        if self.task not in DATASETS:
            near = ", ".join(get_close_matches(self.task, DATASETS, 3, 0.5)) or ", ".join(sorted(DATASETS)[:8])
            raise DataError(
                f"data.task={self.task}: reasoning-gym has no such task; its {len(DATASETS)} tasks include {near}."
            )

    def train_prompts(self) -> Sequence[Prompt]:
        """Returns `num_train` items."""
        return self._items(0, self.num_train, "train")

    def validation_prompts(self) -> Sequence[Prompt]:
        """Returns `num_validation` items whose questions neither occur in the train items nor repeat."""
        seen = {prompt.text for prompt in self.train_prompts()}
        found: list[Prompt] = []
        for prompt in self._items(self.num_train, 4 * self.num_validation, "validation"):
            if prompt.text not in seen:
                seen.add(prompt.text)
                found.append(prompt)
        if len(found) < self.num_validation:
            raise DataError(
                f"data.task={self.task} with data.options={self.options}: only {len(found)} questions are left "
                f"after taking {self.num_train} to train on, but data.num_validation={self.num_validation}. Widen the "
                "options, or lower data.num_train."
            )
        return found[: self.num_validation]

    def _items(self, first: int, count: int, split: str) -> list[Prompt]:
        from reasoning_gym import create_dataset

        try:
            seed = self.seed * _SEED_STRIDE + first
            dataset = create_dataset(self.task, seed=seed, size=count, **(self.options or {}))
            return [_prompt(dataset[i], f"reasoning_gym:{self.task}/{split}:{i}") for i in range(count)]
        except (TypeError, ValueError, AssertionError) as error:
            raise DataError(f"data.task={self.task} refuses data.options={self.options}: {error}") from None


def _prompt(item: Mapping[str, Any], source: str) -> Prompt:
    """Converts an item. A few tasks have no unique answer and omit it; their scorer reads the rest of the item."""
    answer = "" if item["answer"] is None else str(item["answer"])
    return Prompt(item["question"], answer, source, columns=dict(item))
