"""Weights for tokens that the sampler found more or less likely than the policy's own forward pass does.

A rollout in other arithmetic (half precision, another engine) draws from a slightly different policy than the one whose
gradient is taken: training is off-policy before its first step. Truncated importance sampling (TIS: Yao et al. 2025,
"Your Efficient RL Framework Secretly Brings You Off-Policy RL Training") weighs that back. DAPO itself has none of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoCorrection:
    """No weights: the gap between sampler and policy is logged, and nothing else."""

    reweights = False

    def weights(self, old_logps_BT: Tensor, sampled_logps_BT: Tensor) -> Tensor:
        """What each token's objective is multiplied by, [B, T]: 1."""
        return torch.ones_like(old_logps_BT)

    def capped(self, old_logps_BT: Tensor, sampled_logps_BT: Tensor) -> Tensor:
        """No token's weight is capped, [B, T] bool."""
        return torch.zeros_like(old_logps_BT, dtype=torch.bool)


@dataclass(frozen=True)
class Truncated:
    """min(pi_old / pi_sampler, cap) for each token: unbiased where the cap does not bind, of bounded variance where it
    does.

    Raises:
        ValueError: if the cap is below 1.
    """

    cap: float
    reweights = True

    def __post_init__(self) -> None:
        if not self.cap >= 1:
            raise ValueError(
                f"correction.cap={self.cap}: must be at least 1, or it would scale down every token, also those that "
                "sampler and policy agree on (the paper: 2). correction=none switches the correction off."
            )

    def weights(self, old_logps_BT: Tensor, sampled_logps_BT: Tensor) -> Tensor:
        """What each token's objective is multiplied by, [B, T]; a constant to the gradient."""
        return (old_logps_BT - sampled_logps_BT).exp().clamp(max=self.cap).detach()

    def capped(self, old_logps_BT: Tensor, sampled_logps_BT: Tensor) -> Tensor:
        """Tokens whose weight the cap lowers, [B, T] bool."""
        return (old_logps_BT - sampled_logps_BT).exp() > self.cap
