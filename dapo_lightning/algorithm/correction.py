"""Importance weights for the difference between the sampler's log-probs and those of the policy's forward pass.

A rollout in other arithmetic (half precision, another engine) samples from a slightly different policy than the one
whose gradient is computed, so training is off-policy from its first gradient step. Truncated importance sampling (TIS:
Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training") corrects for it. DAPO does
not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dapo_lightning.algorithm.ratio import log_ratio
from dapo_lightning.algorithm.tokens import Mean, PerToken, Tokens


@dataclass(frozen=True)
class NoCorrection:
    """No correction: the gap between sampler and policy is only logged."""

    reweights = False

    def __call__(self, tokens: Tokens) -> PerToken:
        """The weight 1 for each token."""
        return PerToken(torch.ones_like(tokens.old_logps_BT))


@dataclass(frozen=True)
class Truncated:
    """min(pi_old / pi_sampler, cap) for each token. It is unbiased while the cap does not apply; the cap bounds the
    variance.

    Raises:
        ValueError: if the cap is below 1.
    """

    cap: float
    reweights = True

    def __post_init__(self) -> None:
        if not self.cap >= 1:
            raise ValueError(
                f"correction.cap={self.cap}: must be at least 1, or it would scale down every token, even those on "
                "which sampler and policy agree (the paper: 2). correction=none switches the correction off."
            )

    def __call__(self, tokens: Tokens) -> PerToken:
        """The weight of each token, without a gradient."""
        ratio_BT = log_ratio(tokens.old_logps_BT, tokens.sampled_logps_BT).exp().detach()
        weights_BT = ratio_BT.clamp(max=self.cap)
        capped_BT = ratio_BT > self.cap
        return PerToken(
            weights_BT,
            {"correction/mean": Mean(weights_BT), "correction/capped_fraction": Mean(capped_BT.float())},
        )
