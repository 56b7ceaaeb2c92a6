"""Clipped surrogate: ratio and advantage -> per-token objective (Eq. 8, "Clip-Higher", section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dapo_lightning.algorithm.tokens import Mean, PerToken, Tokens


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
        if not self.upper >= 1:
            raise ValueError(
                f"clip.upper={self.upper} bounds the ratio and must be at least 1; "
                f"if you meant epsilon_high={self.upper}, write clip.upper={1 + self.upper:g}."
            )
        if not 0 <= self.lower <= 1:
            raise ValueError(f"clip.lower={self.lower} bounds the ratio and must lie in [0, 1] (the paper: 0.8).")
        if 0 < self.lower < 0.5:
            raise ValueError(
                f"clip.lower={self.lower} bounds the ratio; if you meant epsilon_low={self.lower}, "
                f"write clip.lower={1 - self.lower:g}. 0 switches the lower bound off, clip=none switches off both."
            )

    def __call__(self, ratio_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective to maximise for each token. The upper bound removes the gradient of tokens with A > 0 and
        r > upper, the lower bound that of tokens with A < 0 and r < lower; both are counted."""
        advantages_BT = tokens.advantages_BT
        clipped_BT = ratio_BT.clamp(self.lower, self.upper)
        above_BT = (advantages_BT > 0) & (ratio_BT > self.upper)
        below_BT = (advantages_BT < 0) & (ratio_BT < self.lower)
        return PerToken(
            torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT),
            {
                "clip/upper_fraction": Mean(above_BT.float()),
                "clip/lower_fraction": Mean(below_BT.float()),
                "clip/upper_probability": Mean(tokens.logps_BT.detach().exp(), where_BT=above_BT),
            },
        )


@dataclass(frozen=True)
class NoClip:
    """r * A: the plain importance-weighted policy gradient. Only the learning rate bounds the step."""

    def __call__(self, ratio_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective to maximise for each token."""
        zeros_BT = torch.zeros_like(tokens.logps_BT)
        return PerToken(
            ratio_BT * tokens.advantages_BT,
            {"clip/upper_fraction": Mean(zeros_BT), "clip/lower_fraction": Mean(zeros_BT)},
        )
