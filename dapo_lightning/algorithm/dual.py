"""Dual-clip PPO (Ye et al. 2019, arXiv 1912.09729, Eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dapo_lightning.algorithm.clip import Clip
from dapo_lightning.algorithm.tokens import Mean, PerToken, Tokens


@dataclass(frozen=True)
class DualClip(Clip):
    """max(clipped objective, bound * A) where A < 0: a wrong token that became likely cannot dominate the gradient.

    Raises:
        ValueError: if the bound is not above 1.
    """

    bound: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.bound > 1:
            raise ValueError(f"clip.bound={self.bound}: bounds a ratio from above and must exceed 1 (the paper: 3).")

    def __call__(self, ratio_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective to maximise for each token."""
        clipped = super().__call__(ratio_BT, tokens)
        floor_BT = self.bound * tokens.advantages_BT
        bounded_BT = (tokens.advantages_BT < 0) & (clipped.values_BT < floor_BT)
        values_BT = torch.where(bounded_BT, floor_BT, clipped.values_BT)
        return PerToken(values_BT, {**clipped.metrics, "clip/dual_fraction": Mean(bounded_BT.float())})
