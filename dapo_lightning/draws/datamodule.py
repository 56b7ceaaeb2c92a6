"""Serves prompts: promises of groups to training, plain batches of draws to validation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import torch

from dapo_lightning.algorithm import SamplingOption
from dapo_lightning.data import DataError, Dataset
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.fill import GroupDraws
from dapo_lightning.draws.length import Encode, Room
from dapo_lightning.draws.overlap import repeated
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.types import Prompt, PromptDraw

log = logging.getLogger(__name__)


class PromptDataModule(L.LightningDataModule):
    """Train prompts in an endless shuffled stream, held-out prompts in order.

    Args:
        dataset: where prompts come from.
        encode: prompt -> its tokens, to know how long it is.
        room: how long it may be.
        sampling: the dynamic or static sampling option.
        num_prompts_per_step: useful groups per DAPO step, over all ranks.
        num_steps: DAPO steps; 0 serves held-out prompts only, and leaves the train split alone.
        num_validation_prompts: held-out prompts per evaluation, the first of the dataset's; None: all.
        num_prompts_per_batch: held-out prompts sampled at once on one rank.

    Attributes:
        counts: how many prompts there are, were dropped as too long, are evaluated, and stand in both splits
            ("repeated": of those evaluated, if the train split is loaded).
    """

    def __init__(
        self,
        dataset: Dataset,
        encode: Encode,
        room: Room,
        sampling: SamplingOption,
        num_prompts_per_step: int,
        num_steps: int,
        num_validation_prompts: int | None,
        seed: int,
        num_prompts_per_batch: int = 64,
    ):
        super().__init__()
        self.counts: dict[str, int] = {}
        train = self._fitting(dataset.train_prompts(), encode, room, "train") if num_steps else []
        held_out = self._fitting(dataset.validation_prompts(), encode, room, "validation")
        if num_validation_prompts is not None and num_validation_prompts > len(held_out):
            raise DataError(
                f"evaluation.num_prompts={num_validation_prompts}, but the dataset holds {len(held_out)} held-out "
                "prompts: lower the one (null: all there are), or enlarge the other."
            )
        self._draws = GroupDraws(PromptStream(train, seed), sampling, num_prompts_per_step, num_steps)
        self._held_out = [PromptDraw(row, prompt) for row, prompt in enumerate(held_out[:num_validation_prompts])]
        self._num_prompts_per_batch = num_prompts_per_batch
        self.counts["evaluated"] = len(self._held_out)
        if num_steps:
            self._count_repeated(train)

    def _fitting(self, prompts: Sequence[Prompt], encode: Encode, room: Room, split: str) -> list[Prompt]:
        kept = room.fitting(prompts, encode, split)
        self.counts |= {split: len(kept), f"{split}_dropped": len(prompts) - len(kept)}
        return kept

    def _count_repeated(self, train: Sequence[Prompt]) -> None:
        pairs = repeated(train, [draw.prompt for draw in self._held_out])
        self.counts["repeated"] = len(pairs)
        if pairs:
            log.warning(
                "%d of %d held-out prompts are trained on as well (%s is %s, for one): their scores say little about "
                "new prompts", len(pairs), len(self._held_out), pairs[0][1], pairs[0][0],
            )  # fmt: skip

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
    """Lists of draws; one that is empty for a rank which has none, as Lightning refuses ranks without batches."""

    def __init__(self, draws: Sequence[PromptDraw], batch_size: int):
        self._batches = [list(draws[i : i + batch_size]) for i in range(0, len(draws), batch_size)] or [[]]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[PromptDraw]]:
        return iter(self._batches)
