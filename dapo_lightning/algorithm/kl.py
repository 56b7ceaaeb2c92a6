"""Penalty on the divergence from the reference copy. GRPO has one, and DAPO removes it (section 2.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dapo_lightning.algorithm.ratio import log_ratio
from dapo_lightning.algorithm.tokens import Mean, PerToken, Tokens


@dataclass(frozen=True)
class NoKL:
    """No penalty, and no reference copy."""

    needs_reference = False

    def __call__(self, tokens: Tokens) -> PerToken:
        """The penalty 0 for each token."""
        return PerToken(torch.zeros_like(tokens.logps_BT))


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
        if not 0 < self.coefficient < math.inf:
            raise ValueError(
                f"kl.coefficient={self.coefficient}: must be positive and finite; kl=none switches the penalty off."
            )

    def __call__(self, tokens: Tokens) -> PerToken:
        """The penalty that is subtracted from the objective of each token."""
        assert tokens.reference_logps_BT is not None
        divergence_BT = k3(tokens.reference_logps_BT, tokens.logps_BT)
        return PerToken(self.coefficient * divergence_BT, {"kl/reference": Mean(divergence_BT.detach())})


def k3(logps_q_BT: Tensor, logps_p_BT: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = log q - log p: an estimate of KL(p || q) from samples of p, [B, T]."""
    log_ratio_BT = log_ratio(logps_q_BT, logps_p_BT)
    return log_ratio_BT.expm1() - log_ratio_BT
