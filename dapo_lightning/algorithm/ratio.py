"""Importance ratio of the trained policy to the old one (the r of Eq. 8)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dapo_lightning.algorithm.tokens import Tokens

MAX_LOG_RATIO = 20.0
"""Log ratios are clamped from above, so that ratios stay below 5e8: float32 overflows at a log ratio of 89, and an
infinite ratio has a NaN gradient even if the clip would have removed it. Very negative log ratios need no clamp."""


def log_ratio(logps_BT: Tensor, others_BT: Tensor) -> Tensor:
    """log(p / q) of two policies for each token, clamped from above, [B, T]."""
    return (logps_BT - others_BT).clamp(max=MAX_LOG_RATIO)


@dataclass(frozen=True)
class TokenRatio:
    """pi(token) / pi_old(token), one ratio for each token, as in PPO, GRPO and DAPO."""

    def __call__(self, tokens: Tokens) -> Tensor:
        """[B, T]."""
        return log_ratio(tokens.logps_BT, tokens.old_logps_BT).exp()
