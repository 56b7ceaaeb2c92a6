"""DPPO: a bound on the divergence of the policy instead of the ratio of one token (arXiv 2602.04879)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dapo_lightning.algorithm.tokens import Mean, PerToken, Tokens


@dataclass(frozen=True)
class _Divergence:
    """sg(min(r, cap)) * A * log pi, without the tokens that leave the trust region: those whose divergence exceeds its
    bound and whose update would increase it (A > 0 and pi > pi_old, or A < 0 and pi < pi_old).

    The divergence is that of two outcomes, the sampled token and all others, so that it needs no further logits. The
    ratio may become large for rare tokens, but not for likely ones. No gradient flows through sg.

    Args:
        lower: bound where the policy moves away from a token.
        upper: bound where it moves towards one.
        cap: largest ratio by which a token is weighted.

    Raises:
        ValueError: if a bound is not positive, or the cap is below 1.
    """

    lower: float
    upper: float
    cap: float

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            if not getattr(self, name) > 0:
                raise ValueError(f"clip.{name}={getattr(self, name)}: bounds a divergence and must be positive.")
        if not self.cap >= 1:
            raise ValueError(f"clip.cap={self.cap}: bounds the ratio and must be at least 1 (verl: 20).")

    def divergence(self, logps_BT: Tensor, old_logps_BT: Tensor) -> Tensor:
        """Divergence of the policies at each token, [B, T]."""
        raise NotImplementedError

    def __call__(self, ratio_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective to maximise for each token."""
        logps_BT, ratio_BT = tokens.logps_BT.detach(), ratio_BT.detach()
        divergence_BT = self.divergence(logps_BT, tokens.old_logps_BT)
        above_BT = (tokens.advantages_BT > 0) & (logps_BT > tokens.old_logps_BT) & (divergence_BT > self.upper)
        below_BT = (tokens.advantages_BT < 0) & (logps_BT < tokens.old_logps_BT) & (divergence_BT > self.lower)
        values_BT = ratio_BT.clamp(max=self.cap) * tokens.advantages_BT * tokens.logps_BT
        return PerToken(
            values_BT.masked_fill(above_BT | below_BT, 0.0),
            {
                "clip/upper_fraction": Mean(above_BT.float()),
                "clip/lower_fraction": Mean(below_BT.float()),
                "clip/divergence": Mean(divergence_BT),
            },
        )


@dataclass(frozen=True)
class TotalVariation(_Divergence):
    """DPPO with |pi - pi_old| of the sampled token (Binary-TV)."""

    def divergence(self, logps_BT: Tensor, old_logps_BT: Tensor) -> Tensor:
        """Total variation, [B, T]."""
        return (logps_BT.exp() - old_logps_BT.exp()).abs()


@dataclass(frozen=True)
class BinaryKL(_Divergence):
    """DPPO with KL(pi_old || pi) of the sampled token against all others (Binary-KL)."""

    def divergence(self, logps_BT: Tensor, old_logps_BT: Tensor) -> Tensor:
        """KL divergence in nats, [B, T]."""
        p_BT, old_BT = logps_BT.exp(), old_logps_BT.exp()
        others_BT = torch.log((1 - old_BT + 1e-8) / (1 - p_BT + 1e-8))
        return old_BT * (old_logps_BT - logps_BT) + (1 - old_BT) * others_BT
