"""Excludes tokens on which sampler and policy differ too much from the loss. `correction` weights the others.

The denominators of the loss are counted before the first forward pass, so that excluded tokens still count there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dapo_lightning.algorithm.ratio import log_ratio
from dapo_lightning.algorithm.tokens import Mean, PerToken, Tokens


@dataclass(frozen=True)
class NoRejection:
    """No token is excluded."""

    reweights = False

    def __call__(self, tokens: Tokens) -> PerToken:
        """The factor 1 for each token."""
        return PerToken(torch.ones_like(tokens.old_logps_BT))


@dataclass(frozen=True)
class _Bounds:
    """Bounds on pi_old / pi_sampler; 0 and inf are no bounds.

    Raises:
        ValueError: if the bounds do not enclose 1.
    """

    lower: float
    upper: float
    reweights = True

    def __post_init__(self) -> None:
        if not 0 <= self.lower <= 1 <= self.upper:
            raise ValueError(
                f"rejection.lower={self.lower} and rejection.upper={self.upper} bound the ratio of trainer to sampler "
                "and must enclose 1. rejection=none switches the rejection off."
            )

    def _kept(self, ratio: Tensor, mask_BT: Tensor) -> PerToken:
        kept_BT = ((ratio >= self.lower) & (ratio <= self.upper)).float().expand(mask_BT.shape)
        return PerToken(kept_BT, {"rejection/fraction": Mean(1 - kept_BT)})


@dataclass(frozen=True)
class RejectTokens(_Bounds):
    """Excludes tokens whose ratio pi_old / pi_sampler is outside the bounds: the mask of IcePop (Ring-1T, arXiv
    2510.18855) and, without a lower bound, of masked importance sampling (MIS)."""

    chooses_tokens: ClassVar[bool] = True

    def __call__(self, tokens: Tokens) -> PerToken:
        """1 for the tokens that are kept, and 0 for the others."""
        return self._kept(log_ratio(tokens.old_logps_BT, tokens.sampled_logps_BT).exp().detach(), tokens.mask_BT)


@dataclass(frozen=True)
class RejectSequences(_Bounds):
    """Excludes all tokens of a completion whose geometric mean of pi_old / pi_sampler is outside the bounds. A mean
    does not grow with the length, so the bounds are the same for short and long completions."""

    def __call__(self, tokens: Tokens) -> PerToken:
        """1 for the tokens of completions that are kept, and 0 for those of the others."""
        mean_B1 = tokens.row_means(log_ratio(tokens.old_logps_BT, tokens.sampled_logps_BT))
        return self._kept(mean_B1.exp().detach(), tokens.mask_BT)
