"""GDPO: each part of the reward is normalised on its own (arXiv 2601.05242)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dapo_lightning.algorithm.advantage import GroupNormalized
from dapo_lightning.algorithm.reinforce_pp import over_tokens
from dapo_lightning.types import Group


@dataclass(frozen=True)
class Gdpo:
    """sum_k weight_k * (R_k - mean) / std within each group, then normalised over all tokens of the batch.

    A sum of rewards that is normalised as one, as in GRPO, gives different combinations of the parts the same
    advantage. The rest of a reward, such as the overlong penalty or what an environment adds, is one more part, with
    weight 1.

    Args:
        weights: weight of each part of the reward, by name.

    Raises:
        ValueError: if there are no parts.
    """

    weights: Mapping[str, float] | None

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError(
                "advantage=gdpo normalises each part of the reward on its own, but this reward has no parts. Use "
                "reward=weighted, or another advantage."
            )

    def __call__(self, rewards_PG: Tensor, groups: Sequence[Group]) -> Tensor:
        """[P, G] rewards -> [P, G, 1] advantages."""
        assert self.weights
        rest_PG, total_PG = rewards_PG, torch.zeros_like(rewards_PG)
        for name, weight in self.weights.items():
            part_PG = torch.tensor([[grade.parts[name] for grade in group.grades] for group in groups])
            rest_PG = rest_PG - weight * part_PG
            total_PG = total_PG + weight * GroupNormalized()(part_PG, groups)[..., 0]
        unit = 1e-5 * rewards_PG.abs().max().clamp(min=1)  # larger than the rounding error of the sum
        total_PG = total_PG + GroupNormalized()((rest_PG / unit).round() * unit, groups)[..., 0]
        return over_tokens(total_PG, groups)[..., None]
