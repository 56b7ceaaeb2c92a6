"""Serves prompts: an endless stream for training, and batches for validation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

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


Usable = Callable[[Sequence[Prompt]], list[Prompt]]
"""Returns those of some prompts whose references the reward can use (see `Reward`)."""


@dataclass(frozen=True)
class HeldOutData:
    """The data of a held-out set; its first `num_prompts` prompts are evaluated, or all of them."""

    dataset: Dataset
    num_prompts: int | None
    usable: Usable = list


class HeldOutBatch(NamedTuple):
    """Prompts of one held-out set; the name of the one that belongs to the training data is empty."""

    name: str
    prompts: list[NumberedPrompt]


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
        usable: see `Usable`.
        sets: further held-out sets by name.

    Attributes:
        counts: number of prompts in each split ("train", "validation"), of prompts dropped as too long
            ("..._dropped"), of prompts left out because of their reference ("..._unreadable", if there are any), of
            held-out prompts that are evaluated ("evaluated"), and of those among them that the train split contains as
            well ("repeated"). Those of further sets begin with "<name>/".
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
        usable: Usable = list,
        sets: Mapping[str, HeldOutData] = MappingProxyType({}),
    ):
        super().__init__()
        self.counts: dict[str, int] = {}
        self.longest_prompt = 0
        self._encode, self._limit = encode, length_limit
        train = self._prompts(dataset.train_prompts(), usable, "train") if num_steps else []
        self._loader = DrawLoader(PromptDraws(PromptStream(train, seed), num_prompts_per_step), num_steps)
        everything = {"": HeldOutData(dataset, num_validation_prompts, usable), **sets}
        self._held_out = {name: self._evaluated(name, held_out) for name, held_out in everything.items()}
        self._num_prompts_per_batch = num_prompts_per_batch
        self._digest: Digest = {}
        if num_steps:
            self._digest = digest_of({"train": train} | {_split("held-out", n): p for n, p in self._held_out.items()})
            self._count_repeated(train)

    def _prompts(self, prompts: Sequence[Prompt], usable: Usable, split: str) -> list[Prompt]:
        """The prompts that are short enough, and whose references can be used."""
        kept, longest = self._limit.filter(prompts, self._encode, split)
        self.longest_prompt = max(self.longest_prompt, longest)
        found = usable(kept)
        self.counts |= {split: len(found), f"{split}_dropped": len(prompts) - len(kept)}
        if len(found) < len(kept):
            self.counts[f"{split}_unreadable"] = len(kept) - len(found)
        return found

    def _evaluated(self, name: str, held_out: HeldOutData) -> list[Prompt]:
        found = self._prompts(held_out.dataset.validation_prompts(), held_out.usable, _split("validation", name))
        chosen = evaluated(found, held_out.num_prompts, f"evaluation.sets.{name}" if name else "evaluation")
        self.counts[_split("evaluated", name)] = len(chosen)
        return chosen

    def _count_repeated(self, train: Sequence[Prompt]) -> None:
        for name, prompts in self._held_out.items():
            pairs = repeated(train, prompts)
            self.counts[_split("repeated", name)] = len(pairs)
            if pairs:
                log.warning(
                    "%d of %d held-out prompts%s are also train prompts (for example, %s equals %s): their scores say "
                    "little about new prompts", len(pairs), len(prompts), f" of {name}" if name else "",
                    pairs[0][1], pairs[0][0],
                )  # fmt: skip

    def train_dataloader(self) -> DrawLoader:
        """Returns the draws, once for each DAPO step."""
        return self._loader

    def val_dataloader(self) -> ValidationBatches:
        """Returns the held-out prompts of this rank in batches, set by set."""
        sets = {
            name: [NumberedPrompt(row, prompt) for row, prompt in enumerate(prompts)]
            for name, prompts in self._held_out.items()
        }
        return ValidationBatches(sets, self._num_prompts_per_batch, Ranks.current())

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
    """Batches of this rank's share of the prompts. All ranks have equally many, some of which may be empty, because
    Lightning requires a batch on every rank, and ranks that share an engine generate together."""

    def __init__(self, sets: Mapping[str, Sequence[NumberedPrompt]], batch_size: int, ranks: Ranks):
        size = batch_size * ranks.size
        self._batches = [
            HeldOutBatch(name, list(ranks.mine(prompts[start : start + size])))
            for name, prompts in sets.items()
            for start in range(0, max(1, len(prompts)), size)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[HeldOutBatch]:
        return iter(self._batches)


def evaluated(prompts: Sequence[Prompt], num_prompts: int | None, path: str) -> list[Prompt]:
    """Returns the first `num_prompts` held-out prompts, or all of them.

    Args:
        path: where the configuration sets their number, for the message.

    Raises:
        DataError: if there are fewer.
    """
    if num_prompts is not None and num_prompts > len(prompts):
        raise DataError(
            f"{path}.num_prompts={num_prompts}, but the dataset holds {len(prompts)} held-out prompts: lower it (null "
            "evaluates all), or use a larger dataset."
        )
    return list(prompts[:num_prompts])


def _split(split: str, name: str) -> str:
    return f"{name}/{split}" if name else split
