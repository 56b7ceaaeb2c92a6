"""Only the most uncertain tokens are trained on (the 80/20 rule, arXiv 2506.01939)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dapo_lightning.algorithm.tokens import AllTokens, Mean, PerToken, Tokens


@dataclass(frozen=True)
class TopTokens:
    """The objective of the share of tokens with the highest entropy in the mini-batch, and 0 for the others.

    At these tokens, the policy chooses between ways to continue; the others hardly matter for what is learnt. The
    denominator of the loss still counts all tokens, as in the paper. KL penalties remain in place. Tokens that are tied
    with the last of the share belong to it.

    Raises:
        ValueError: if the share is not in (0, 1].
    """

    chooses_tokens: ClassVar[bool] = True
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"entropy.share={self.share}: a share of the tokens, in (0, 1] (the paper: 0.2).")

    def marks(self, tokens: AllTokens) -> dict[str, Tensor]:
        """Which tokens count."""
        num_tokens = math.ceil(self.share * len(tokens.entropies_N))
        return {"entropy/top": tokens.entropies_N >= tokens.entropies_N.topk(num_tokens).values[-1]}

    def __call__(self, objective_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective of the tokens that count, and 0 for the others."""
        counts_BT = tokens.marks["entropy/top"]
        return PerToken(objective_BT.where(counts_BT, 0.0), {"entropy/top_fraction": Mean(counts_BT.float())})
