"""Importance ratios of whole sequences (GSPO, arXiv 2507.18071)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dapo_lightning.algorithm.ratio import MAX_LOG_RATIO
from dapo_lightning.algorithm.tokens import Tokens


@dataclass(frozen=True)
class SequenceRatio:
    """s = (pi(sequence) / pi_old(sequence)) ^ (1 / length), the same for all tokens of a trajectory (Eq. 7).

    Clipped and averaged by `loss=sample_level`, it gives the objective of GSPO (Eq. 5)."""

    couples_tokens: ClassVar[bool] = True

    def __call__(self, tokens: Tokens) -> Tensor:
        """[B, T]."""
        return _log_ratio(tokens).exp().expand_as(tokens.logps_BT)


@dataclass(frozen=True)
class SequenceTokenRatio:
    """sg(s) * pi(token) / sg(pi(token)): the value of `SequenceRatio`, but the gradient of each token's own log-prob,
    so that advantages may differ between tokens (GSPO-token). No gradient flows through sg."""

    def __call__(self, tokens: Tokens) -> Tensor:
        """[B, T]."""
        return _log_ratio(tokens).exp().detach() * (tokens.logps_BT - tokens.logps_BT.detach()).exp()


def _log_ratio(tokens: Tokens) -> Tensor:
    """The mean log ratio of each row's tokens in the loss, clamped from above, [B, 1]."""
    return tokens.row_means(tokens.logps_BT - tokens.old_logps_BT).clamp(max=MAX_LOG_RATIO)
