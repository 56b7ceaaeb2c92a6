"""Clip-Cov: the update leaves out some tokens with a high covariance (arXiv 2505.22617)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dapo_lightning.algorithm.clip import Clip
from dapo_lightning.algorithm.ratio import log_ratio
from dapo_lightning.algorithm.tokens import AllTokens, Mean, PerToken, Tokens


@dataclass(frozen=True)
class ClipCov(Clip):
    """The clipped objective, without a random share of the tokens whose covariance lies between two bounds.

    The entropy falls by the covariance of log-probs and advantages, most of which comes from a few tokens. Means and
    shares are those of the whole mini-batch. The random choice depends only on its tokens.

    Args:
        share: of the tokens of a mini-batch that are left out; at least one is, if there is any between the bounds.
        lower_covariance, upper_covariance: tokens between them are candidates, unless a bound of the ratio has removed
            their gradient already.

    Raises:
        ValueError: if the share is not in (0, 1], or the bounds are the wrong way round.
    """

    chooses_tokens: ClassVar[bool] = True
    share: float = 0.0002
    lower_covariance: float = 1.0
    upper_covariance: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.share)
        if not self.lower_covariance < self.upper_covariance:
            raise ValueError(
                f"clip.lower_covariance={self.lower_covariance} must be below clip.upper_covariance="
                f"{self.upper_covariance} (the paper: 1 and 5)."
            )

    def marks(self, tokens: AllTokens) -> dict[str, Tensor]:
        """Which tokens are left out."""
        covariance_N = covariances(tokens)
        ratio_N = log_ratio(tokens.logps_N, tokens.old_logps_N).exp()
        is_clipped_N = torch.where(tokens.advantages_N > 0, ratio_N > self.upper, ratio_N < self.lower)
        is_between_N = (covariance_N > self.lower_covariance) & (covariance_N < self.upper_covariance)
        candidates = (is_between_N & ~is_clipped_N).nonzero()[:, 0]
        key = (tokens.ids_N * torch.arange(1, len(tokens.ids_N) + 1)).sum() % 2**31
        order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(int(key)))
        left_out_N = torch.zeros_like(is_clipped_N)
        left_out_N[candidates[order[: num_of(self.share, tokens)]]] = True
        return {"clip/covariance": left_out_N}

    def __call__(self, ratio_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective to maximise for each token."""
        clipped, left_out_BT = super().__call__(ratio_BT, tokens), tokens.marks["clip/covariance"]
        metrics = {**clipped.metrics, "clip/covariance_fraction": Mean(left_out_BT.float())}
        return PerToken(clipped.values_BT.masked_fill(left_out_BT, 0.0), metrics)


def covariances(tokens: AllTokens) -> Tensor:
    """(log pi - mean) * (A - mean) of each token, [N]."""
    return (tokens.logps_N - tokens.logps_N.mean()) * (tokens.advantages_N - tokens.advantages_N.mean())


def num_of(share: float, tokens: AllTokens) -> int:
    """The number of tokens that a share amounts to: rounded down, but at least one."""
    return max(1, int(share * len(tokens.ids_N)))


def check_share(share: float) -> None:
    """Raises a ValueError if a share of tokens is not in (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(f"clip.share={share}: a share of the tokens of a mini-batch, in (0, 1] (the paper: 0.0002).")
