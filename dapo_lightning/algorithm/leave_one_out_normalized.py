"""Leave-one-out advantages with a standard deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dapo_lightning.types import Group


@dataclass(frozen=True)
class LeaveOneOutNormalized:
    """(R_i - mean of the others) / (std of the others + epsilon), with ddof 1, as in NeMo RL: neither number depends on
    R_i itself, so the baseline stays unbiased. If the others are all equal, the difference is not divided.

    Raises:
        ValueError: if epsilon is negative or not finite; when called, if groups have fewer than three completions.
    """

    epsilon: float = 1e-6
    min_completions: ClassVar[int] = 3  # of a prompt; refused at the start

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < math.inf:
            raise ValueError(f"advantage.epsilon={self.epsilon}: must be a finite number of at least 0.")

    def __call__(self, rewards_PG: Tensor, groups: Sequence[Group]) -> Tensor:
        """[P, G] rewards -> [P, G, 1] advantages."""
        size = rewards_PG.shape[1]
        if size < self.min_completions:
            raise ValueError(
                f"advantage=leave_one_out_normalized: the standard deviation of the other completions needs at least "
                f"two of them, so num_completions_per_prompt={size} must be at least 3."
            )
        others_PGO = torch.stack(
            [torch.cat([rewards_PG[:, :g], rewards_PG[:, g + 1 :]], dim=1) for g in range(size)], 1
        )
        differ_PG = (others_PGO != others_PGO[..., :1]).any(dim=2)
        advantages_PG = rewards_PG - others_PGO.mean(dim=2)
        normalized_PG = advantages_PG / (others_PGO.std(dim=2) + self.epsilon)
        constant_P1 = (rewards_PG == rewards_PG[:, :1]).all(dim=1, keepdim=True)
        return torch.where(differ_PG, normalized_PG, advantages_PG).masked_fill(constant_P1, 0.0)[..., None]
