"""Rewards of a group -> advantages (Eq. 9)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dapo_lightning.types import Group


@dataclass(frozen=True)
class GroupNormalized:
    """(R - mean) / (std + epsilon) within each group (Eq. 9).

    The paper states neither epsilon nor the degrees of freedom. Here std is that of the population (ddof 0): the group
    is all there is to normalise, so its advantages have variance exactly 1 for every G (with ddof 1, a group of two
    would get +-0.71 instead of +-1). epsilon is 1e-6, far below the smallest std that rewards of +-1 can have. A group
    without variance gets an advantage of exactly 0.

    Raises:
        ValueError: if epsilon is negative or not finite.
    """

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < math.inf:
            raise ValueError(f"advantage.epsilon={self.epsilon}: must be a finite number of at least 0.")

    def __call__(self, rewards_PG: Tensor, groups: Sequence[Group]) -> Tensor:
        """[P, G] rewards -> [P, G, 1] advantages."""
        centered_PG = _centered(rewards_PG)
        std_P1 = centered_PG.square().mean(dim=1, keepdim=True).sqrt()
        return (centered_PG / (std_P1 + self.epsilon)).masked_fill(std_P1 == 0, 0.0)[..., None]


@dataclass(frozen=True)
class MeanCentered:
    """R - mean, without division by the standard deviation, which would inflate the advantages of very hard and very
    easy prompts (Dr. GRPO)."""

    def __call__(self, rewards_PG: Tensor, groups: Sequence[Group]) -> Tensor:
        """[P, G] rewards -> [P, G, 1] advantages."""
        return _centered(rewards_PG)[..., None]


@dataclass(frozen=True)
class LeaveOneOut:
    """R_i - mean of the other G - 1 rewards (RLOO): an unbiased baseline; it equals G/(G-1) * MeanCentered."""

    def __call__(self, rewards_PG: Tensor, groups: Sequence[Group]) -> Tensor:
        """[P, G] rewards -> [P, G, 1] advantages."""
        size = rewards_PG.shape[1]
        return (_centered(rewards_PG) * (size / (size - 1)))[..., None]


def _centered(rewards_PG: Tensor) -> Tensor:
    """R - mean. It is exactly 0 if all rewards are equal; otherwise a rounding error would be divided by itself."""
    constant_P1 = (rewards_PG == rewards_PG[:, :1]).all(dim=1, keepdim=True)
    return (rewards_PG - rewards_PG.mean(dim=1, keepdim=True)).masked_fill(constant_P1, 0.0)
