"""Penalty against the reference copy. DAPO removes it (section 2.3); GRPO and PPO baselines may want it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoKL:
    """No penalty: the reference copy is not even loaded."""

    needs_reference = False

    def penalty(self, logps_BT: Tensor, reference_logps_BT: Tensor) -> Tensor:
        """What is taken off each token's objective, [B, T]: 0."""
        return torch.zeros_like(logps_BT)


@dataclass(frozen=True)
class K3:
    """coefficient * (exp(d) - d - 1), d = log pi_ref - log pi: GRPO's estimator of KL(pi || pi_ref)
    (Schulman's k3: unbiased for on-policy samples, never negative).

    Raises:
        ValueError: if the coefficient is not positive.
    """

    coefficient: float
    needs_reference = True

    def __post_init__(self) -> None:
        if self.coefficient <= 0:
            raise ValueError(f"kl.coefficient={self.coefficient}: must be positive; kl=none switches the penalty off.")

    def penalty(self, logps_BT: Tensor, reference_logps_BT: Tensor) -> Tensor:
        """What is taken off each token's objective, [B, T]."""
        return self.coefficient * k3(reference_logps_BT - logps_BT)


def k3(log_ratio_BT: Tensor) -> Tensor:
    """exp(d) - d - 1 for d = log q - log p: estimate of KL(p || q) from samples of p, [B, T]."""
    return log_ratio_BT.expm1() - log_ratio_BT
