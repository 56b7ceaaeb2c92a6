"""Clipped surrogate: ratio and advantage -> per-token objective (Eq. 8, "Clip-Higher", section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """min(r * A, clip(r, lower, upper) * A), with bounds on the RATIO r = pi / pi_old.

    The paper writes clip(r, 1 - eps_low, 1 + eps_high): lower 0.8 and upper 1.28 are its Clip-Higher
    (eps 0.2 and 0.28), 0.8 and 1.2 are PPO's and GRPO's.

    Raises:
        ValueError: if the bounds do not enclose 1, or look like epsilons.
    """

    lower: float
    upper: float

    def __post_init__(self) -> None:
        if self.upper < 1:
            raise ValueError(
                f"clip.upper={self.upper} bounds the ratio and must be at least 1; "
                f"if you meant epsilon_high={self.upper}, write clip.upper={1 + self.upper:g}."
            )
        if not 0 <= self.lower <= 1:
            raise ValueError(f"clip.lower={self.lower} bounds the ratio and must lie in [0, 1] (the paper: 0.8).")
        if 0 < self.lower < 0.5:
            raise ValueError(
                f"clip.lower={self.lower} bounds the ratio; if you meant epsilon_low={self.lower}, "
                f"write clip.lower={1 - self.lower:g}. To switch it off use 0, or clip=none for both bounds."
            )

    def objective(self, ratio_BT: Tensor, advantages_B: Tensor) -> Tensor:
        """Objective to maximise for each token, [B, T]; every token of a row shares its advantage."""
        advantages_B1 = advantages_B[:, None]
        clipped_BT = ratio_BT.clamp(self.lower, self.upper)
        return torch.minimum(ratio_BT * advantages_B1, clipped_BT * advantages_B1)

    def clipped_above(self, ratio_BT: Tensor, advantages_B: Tensor) -> Tensor:
        """Tokens whose gradient the upper bound removes, [B, T] bool: A > 0 and r > upper."""
        return (advantages_B[:, None] > 0) & (ratio_BT > self.upper)

    def clipped_below(self, ratio_BT: Tensor, advantages_B: Tensor) -> Tensor:
        """Tokens whose gradient the lower bound removes, [B, T] bool: A < 0 and r < lower."""
        return (advantages_B[:, None] < 0) & (ratio_BT < self.lower)


@dataclass(frozen=True)
class NoClip:
    """r * A: the plain importance-weighted policy gradient. Nothing bounds the step but the learning rate."""

    def objective(self, ratio_BT: Tensor, advantages_B: Tensor) -> Tensor:
        """Objective to maximise for each token, [B, T]."""
        return ratio_BT * advantages_B[:, None]

    def clipped_above(self, ratio_BT: Tensor, advantages_B: Tensor) -> Tensor:
        """No token is clipped, [B, T] bool."""
        return torch.zeros_like(ratio_BT, dtype=torch.bool)

    def clipped_below(self, ratio_BT: Tensor, advantages_B: Tensor) -> Tensor:
        """No token is clipped, [B, T] bool."""
        return torch.zeros_like(ratio_BT, dtype=torch.bool)
