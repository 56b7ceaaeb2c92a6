"""CISPO: the importance weight is clipped, not the update (MiniMax-M1, arXiv 2506.13585)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dapo_lightning.algorithm.clip import Clip
from dapo_lightning.algorithm.tokens import Mean, PerToken, Tokens


@dataclass(frozen=True)
class Cispo(Clip):
    """sg(clip(r, lower, upper)) * A * log pi, where no gradient flows through sg (Eq. 4 and 5).

    Every token keeps a gradient, with a weight that is bounded. The paper does not bound it from below, and tunes the
    upper bound without naming it; ScaleRL (arXiv 2510.13786) finds that any upper bound from 4 to 8 serves.
    """

    def __call__(self, ratio_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective to maximise for each token. The fractions count tokens whose weight is bounded."""
        ratio_BT = ratio_BT.detach()
        return PerToken(
            ratio_BT.clamp(self.lower, self.upper) * tokens.advantages_BT * tokens.logps_BT,
            {
                "clip/upper_fraction": Mean((ratio_BT > self.upper).float()),
                "clip/lower_fraction": Mean((ratio_BT < self.lower).float()),
            },
        )
