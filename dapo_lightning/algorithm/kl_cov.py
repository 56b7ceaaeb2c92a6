"""KL-Cov: a KL penalty on the tokens with the highest covariance (arXiv 2505.22617)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from dapo_lightning.algorithm.clip_cov import check_share, covariances, num_of
from dapo_lightning.algorithm.tokens import AllTokens, Mean, PerToken, Tokens


@dataclass(frozen=True)
class KlCov:
    """r * A - coefficient * |log pi - log pi_old| for the share of tokens with the highest covariance, and r * A for
    the others. Covariances and shares are those of the whole mini-batch; nothing is clipped. Tokens that are tied with
    the last of the share belong to it.

    Raises:
        ValueError: if the share is not in (0, 1], or the coefficient is not positive.
    """

    share: float
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        check_share(self.share)
        if not 0 < self.coefficient < math.inf:
            raise ValueError(f"clip.coefficient={self.coefficient}: must be positive and finite (the paper: 1).")

    def marks(self, tokens: AllTokens) -> dict[str, Tensor]:
        """Which tokens are penalised."""
        covariance_N = covariances(tokens)
        return {"clip/covariance": covariance_N >= covariance_N.topk(num_of(self.share, tokens)).values[-1]}

    def __call__(self, ratio_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective to maximise for each token."""
        is_high_BT = tokens.marks["clip/covariance"].float()
        penalty_BT = self.coefficient * (tokens.logps_BT - tokens.old_logps_BT).abs()
        values_BT = ratio_BT * tokens.advantages_BT - is_high_BT * penalty_BT
        return PerToken(values_BT, {"clip/covariance_fraction": Mean(is_high_BT)})
