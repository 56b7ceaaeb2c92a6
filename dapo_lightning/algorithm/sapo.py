"""Soft Adaptive Policy Optimization (SAPO, arXiv 2511.20347)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dapo_lightning.algorithm.tokens import Mean, PerToken, Tokens


@dataclass(frozen=True)
class Sapo:
    """sigmoid(tau * (r - 1)) * 4 / tau * A: a smooth gate instead of a hard clip.

    The gate's slope is 1 at r = 1 and falls off on both sides, the faster the larger tau. tau is larger for tokens
    without a positive advantage, whose gradients are less stable.

    Raises:
        ValueError: if a temperature is not positive.
    """

    temperature_positive: float
    temperature_negative: float

    def __post_init__(self) -> None:
        for name in ("temperature_positive", "temperature_negative"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"clip.{name}={getattr(self, name)}: must be positive and finite (the paper: 1 and 1.05)."
                )

    def __call__(self, ratio_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective to maximise for each token."""
        positive, negative = ratio_BT.new_tensor([self.temperature_positive, self.temperature_negative])
        temperature_BT = torch.where(tokens.advantages_BT > 0, positive, negative)
        gate_BT = torch.sigmoid(temperature_BT * (ratio_BT - 1))
        slope_BT = (4 * gate_BT * (1 - gate_BT)).detach()
        return PerToken(gate_BT * (4 / temperature_BT) * tokens.advantages_BT, {"clip/slope": Mean(slope_BT)})
