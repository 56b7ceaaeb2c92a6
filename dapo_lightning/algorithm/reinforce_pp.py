"""REINFORCE++: advantages are normalised over the whole batch instead of each group (arXiv 2501.03262)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dapo_lightning.algorithm.advantage import MeanCentered
from dapo_lightning.types import Group


@dataclass(frozen=True)
class ReinforcePP:
    """(R - mean) / std over all tokens of the batch, on all ranks. There is no baseline for each group."""

    def __call__(self, rewards_PG: Tensor, groups: Sequence[Group]) -> Tensor:
        """[P, G] rewards -> [P, G, 1] advantages."""
        return whitened(rewards_PG, groups)[..., None]


@dataclass(frozen=True)
class ReinforcePPBaseline:
    """The same for R - mean of the group: REINFORCE++-baseline, for several completions of each prompt."""

    def __call__(self, rewards_PG: Tensor, groups: Sequence[Group]) -> Tensor:
        """[P, G] rewards -> [P, G, 1] advantages."""
        return whitened(MeanCentered()(rewards_PG, groups)[..., 0], groups)[..., None]


def whitened(values_PG: Tensor, groups: Sequence[Group]) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8) over all tokens of the batch, each of which has the value of its completion. The
    variance is that of the population. [P, G]; exactly 0 if all values are equal."""
    if (values_PG == values_PG[0, 0]).all():
        return torch.zeros_like(values_PG)
    lengths_PG = torch.stack([group.lengths_G() for group in groups]).to(values_PG)
    shares_PG = lengths_PG / lengths_PG.sum()
    centered_PG = values_PG - (shares_PG * values_PG).sum()
    variance = (shares_PG * centered_PG.square()).sum()
    return centered_PG / (variance + 1e-8).sqrt()
