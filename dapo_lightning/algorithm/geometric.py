"""Geometric-Mean Policy Optimization (GMPO, arXiv 2507.20673)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dapo_lightning.algorithm.clip import Clip
from dapo_lightning.algorithm.tokens import Mean, PerToken, Tokens


@dataclass(frozen=True)
class GeometricClip(Clip):
    """A * geometric mean over a trajectory of its clipped ratios, the same for all of its tokens.

    A geometric mean is less sensitive to single large ratios than the arithmetic mean of GRPO, so the bounds may be
    wider. With `loss=sample_level`, the sum over tokens is the objective of GMPO.
    """

    couples_tokens: ClassVar[bool] = True

    def __call__(self, ratio_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective to maximise for each token. The fractions are those of `Clip`."""
        log_ratio_BT = ratio_BT.clamp(min=1e-30).log()  # the log of 0 would have a gradient that is not finite
        lower = math.log(self.lower) if self.lower else -math.inf
        sign_BT = tokens.advantages_BT.sign()
        clipped_BT = log_ratio_BT.clamp(lower, math.log(self.upper))
        chosen_BT = sign_BT * torch.minimum(sign_BT * log_ratio_BT, sign_BT * clipped_BT)
        mean_B1 = tokens.row_means(chosen_BT)
        above_BT = (tokens.advantages_BT > 0) & (ratio_BT > self.upper)
        below_BT = (tokens.advantages_BT < 0) & (ratio_BT < self.lower)
        return PerToken(
            (mean_B1.exp() * tokens.advantages_BT).expand_as(ratio_BT),
            {"clip/upper_fraction": Mean(above_BT.float()), "clip/lower_fraction": Mean(below_BT.float())},
        )
