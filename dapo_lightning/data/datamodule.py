"""Serves prompts: promises of groups to training, plain batches of draws to validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import torch

from dapo_lightning.algorithm import SamplingOption
from dapo_lightning.data import DataError, Dataset
from dapo_lightning.data.draw import GroupDraws
from dapo_lightning.data.stream import PromptStream
from dapo_lightning.ranks import Ranks
from dapo_lightning.types import Prompt, PromptDraw


class PromptDataModule(L.LightningDataModule):
    """Train prompts in an endless shuffled stream, held-out prompts in order.

    Args:
        dataset: where prompts come from.
        sampling: the dynamic or static sampling option.
        num_prompts_per_step: useful groups per DAPO step, over all ranks.
        num_steps: DAPO steps.
        num_validation_prompts: held-out prompts per evaluation, the first of the dataset's.
        num_prompts_per_batch: held-out prompts sampled at once on one rank.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampling: SamplingOption,
        num_prompts_per_step: int,
        num_steps: int,
        num_validation_prompts: int,
        seed: int,
        num_prompts_per_batch: int = 64,
    ):
        super().__init__()
        train = _not_empty(dataset.train_prompts(), "train")
        held_out = _not_empty(dataset.validation_prompts(), "validation")
        if num_validation_prompts > len(held_out):
            raise DataError(
                f"evaluation.num_prompts={num_validation_prompts}, but the dataset holds {len(held_out)} held-out "
                "prompts: lower the one or enlarge the other."
            )
        self._draws = GroupDraws(PromptStream(train, seed), sampling, num_prompts_per_step, num_steps)
        self._held_out = [PromptDraw(row, prompt) for row, prompt in enumerate(held_out[:num_validation_prompts])]
        self._num_prompts_per_batch = num_prompts_per_batch

    def train_dataloader(self) -> GroupDraws:
        """One promise per DAPO step."""
        return self._draws

    def val_dataloader(self) -> ValidationBatches:
        """This rank's held-out prompts, in batches."""
        return ValidationBatches(Ranks.current().mine(self._held_out), self._num_prompts_per_batch)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing to move: a promise has no device, and neither has text."""
        return batch


class ValidationBatches:
    """Lists of draws."""

    def __init__(self, draws: Sequence[PromptDraw], batch_size: int):
        self._batches = [list(draws[i : i + batch_size]) for i in range(0, len(draws), batch_size)]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[PromptDraw]]:
        return iter(self._batches)


def _not_empty(prompts: Sequence[Prompt], split: str) -> Sequence[Prompt]:
    if not prompts:
        raise DataError(f"the {split} split is empty: check the file or the settings of the data group.")
    return prompts
