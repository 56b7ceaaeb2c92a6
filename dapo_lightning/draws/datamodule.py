"""Serves prompts: an endless stream for training, and batches for validation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning as L
import torch

from dapo_lightning.data import DataError, Dataset
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.digest import Digest, check_same, digest_of
from dapo_lightning.draws.fill import DrawLoader, PromptDraws
from dapo_lightning.draws.length import Encode, LengthLimit
from dapo_lightning.draws.overlap import repeated
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.types import NumberedPrompt, Prompt

log = logging.getLogger(__name__)


class PromptDataModule(L.LightningDataModule):
    """Train prompts in an endless shuffled stream, held-out prompts in order.

    Args:
        dataset: where prompts come from.
        encode: prompt -> its tokens.
        length_limit: how long prompts may be.
        num_prompts_per_step: groups that a DAPO step trains on, over all ranks.
        num_steps: DAPO steps; 0 serves held-out prompts only and does not load the train split.
        num_validation_prompts: how many held-out prompts are evaluated, from the first on; None evaluates all.
        seed: seed of the order in which train prompts are drawn.
        num_prompts_per_batch: number of held-out prompts that one rank samples at once.
        usable: returns those of some prompts whose references the reward can use (see `Reward`).

    Attributes:
        counts: number of prompts in each split ("train", "validation"), of prompts dropped as too long
            ("..._dropped"), of prompts left out because of their reference ("..._unreadable", if there are any), of
            held-out prompts that are evaluated ("evaluated"), and of those among them that the train split contains as
            well ("repeated").
        longest_prompt: tokens of the longest prompt.
    """

    def __init__(
        self,
        dataset: Dataset,
        encode: Encode,
        length_limit: LengthLimit,
        num_prompts_per_step: int,
        num_steps: int,
        num_validation_prompts: int | None = None,
        seed: int = 0,
        num_prompts_per_batch: int = 64,
        usable: Callable[[Sequence[Prompt]], list[Prompt]] = list,
    ):
        super().__init__()
        self.counts: dict[str, int] = {}
        self.longest_prompt = 0
        self._usable = usable
        train = self._short_enough(dataset.train_prompts(), encode, length_limit, "train") if num_steps else []
        held_out = self._short_enough(dataset.validation_prompts(), encode, length_limit, "validation")
        if num_validation_prompts is not None and num_validation_prompts > len(held_out):
            raise DataError(
                f"evaluation.num_prompts={num_validation_prompts}, but the dataset holds {len(held_out)} held-out "
                "prompts: lower it (null evaluates all), or use a larger dataset."
            )
        self._loader = DrawLoader(PromptDraws(PromptStream(train, seed), num_prompts_per_step), num_steps)
        self._held_out = [NumberedPrompt(row, prompt) for row, prompt in enumerate(held_out[:num_validation_prompts])]
        self._num_prompts_per_batch = num_prompts_per_batch
        self.counts["evaluated"] = len(self._held_out)
        self._digest = digest_of({"train": train, "held-out": held_out[:num_validation_prompts]}) if num_steps else {}
        if num_steps:
            self._count_repeated(train)

    def _short_enough(
        self, prompts: Sequence[Prompt], encode: Encode, length_limit: LengthLimit, split: str
    ) -> list[Prompt]:
        kept, longest = length_limit.filter(prompts, encode, split)
        self.longest_prompt = max(self.longest_prompt, longest)
        usable = self._usable(kept)
        self.counts |= {split: len(usable), f"{split}_dropped": len(prompts) - len(kept)}
        if len(usable) < len(kept):
            self.counts[f"{split}_unreadable"] = len(kept) - len(usable)
        return usable

    def _count_repeated(self, train: Sequence[Prompt]) -> None:
        pairs = repeated(train, [numbered.prompt for numbered in self._held_out])
        self.counts["repeated"] = len(pairs)
        if pairs:
            log.warning(
                "%d of %d held-out prompts are also train prompts (for example, %s equals %s): their scores say little "
                "about new prompts", len(pairs), len(self._held_out), pairs[0][1], pairs[0][0],
            )  # fmt: skip

    def train_dataloader(self) -> DrawLoader:
        """Returns the draws, once for each DAPO step."""
        return self._loader

    def val_dataloader(self) -> ValidationBatches:
        """Returns the held-out prompts of this rank, in batches."""
        return ValidationBatches(Ranks.current().mine(self._held_out), self._num_prompts_per_batch)

    def state_dict(self) -> Digest:
        """Returns the digest of the prompts, which checkpoints contain."""
        return self._digest

    def load_state_dict(self, state_dict: Digest) -> None:
        """Loads nothing, but raises a DataError if the prompts have changed since the run was saved."""
        check_same(state_dict, self._digest)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Returns the batch unchanged, because text has no device."""
        return batch


class ValidationBatches:
    """Lists of prompts. A rank without prompts gets an empty list, because Lightning requires a batch on every rank."""

    def __init__(self, prompts: Sequence[NumberedPrompt], batch_size: int):
        self._batches = [list(prompts[i : i + batch_size]) for i in range(0, len(prompts), batch_size)] or [[]]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[NumberedPrompt]]:
        return iter(self._batches)
