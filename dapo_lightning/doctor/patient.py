"""What a run is made of, as far as the doctor examines it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.data import Dataset
from dapo_lightning.draws.length import LengthLimit
from dapo_lightning.environment import Environment
from dapo_lightning.policy import Policy
from dapo_lightning.policy.codec import Codec
from dapo_lightning.reward import Reward
from dapo_lightning.rollout import Rollout
from dapo_lightning.types import Generation, Prompt


@dataclass(frozen=True)
class HeldOutSet:
    """A set of `evaluation.sets`. Its data and its reward are the objects of the run, or others."""

    dataset: Dataset
    reward: Reward
    num_prompts: int | None


@dataclass(frozen=True)
class Patient:
    """The parts of a run.

    Args:
        settings: the resolved configuration.
        reward: leaves out references that it cannot read; not started yet, like those of the sets.
        load: the maximum number of tokens of a prompt and its completion together -> the untrained policy.
        model: its configuration.
    """

    settings: Mapping[str, Any]
    dataset: Dataset
    codec: Codec
    limit: LengthLimit
    environment: Environment
    reward: Reward
    algorithm: Algorithm
    rollout: Rollout
    generation: Generation
    load: Callable[[int], Policy]
    model: PreTrainedConfig | None
    sets: Mapping[str, HeldOutSet]

    def splits(self) -> dict[str, list[Prompt]]:
        """Returns the prompts of the run, and those of the sets with data of their own."""
        of_run = {"train": list(self.dataset.train_prompts()), "held-out": list(self.dataset.validation_prompts())}
        return of_run | {split: list(dataset.validation_prompts()) for split, dataset in self._of_sets().items()}

    @property
    def drawn(self) -> list[str]:
        """The splits whose prompts are drawn at random, so that some occur more than once."""
        datasets = {"train": self.dataset, "held-out": self.dataset} | self._of_sets()
        return [split for split, dataset in datasets.items() if getattr(dataset, "repeats_prompts", False)]

    def _of_sets(self) -> dict[str, Dataset]:
        return {_split(name): one.dataset for name, one in self.sets.items() if one.dataset is not self.dataset}


def prompts_of(name: str, splits: Mapping[str, Sequence[Prompt]]) -> Sequence[Prompt]:
    """Returns the prompts of a set: those of its own, or the held-out prompts of the run."""
    return splits.get(_split(name), splits["held-out"])


def _split(name: str) -> str:
    return f"held-out ({name})"
