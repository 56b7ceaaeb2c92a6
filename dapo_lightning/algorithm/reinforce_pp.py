"""REINFORCE++: advantages are normalised over the whole batch instead of each group (arXiv 2501.03262)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dapo_lightning.algorithm.advantage import MeanCentered
from dapo_lightning.algorithm.whitening import whitened
from dapo_lightning.types import Group


@dataclass(frozen=True)
class ReinforcePP:
    """(R - mean) / std over all tokens of the batch, on all ranks. There is no baseline for each group."""

    def __call__(self, rewards_PG: Tensor, groups: Sequence[Group]) -> Tensor:
        """[P, G] rewards -> [P, G, 1] advantages."""
        return over_tokens(rewards_PG, groups)[..., None]


@dataclass(frozen=True)
class ReinforcePPBaseline:
    """The same for R - mean of the group: REINFORCE++-baseline, for several completions of each prompt."""

    def __call__(self, rewards_PG: Tensor, groups: Sequence[Group]) -> Tensor:
        """[P, G] rewards -> [P, G, 1] advantages."""
        return over_tokens(MeanCentered()(rewards_PG, groups)[..., 0], groups)[..., None]


def over_tokens(values_PG: Tensor, groups: Sequence[Group]) -> Tensor:
    """Values of completions, whitened over all tokens of the batch. [P, G]"""
    return whitened(values_PG, torch.stack([group.lengths_G() for group in groups]))
