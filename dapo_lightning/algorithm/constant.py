"""Dr. GRPO's constant denominator (arXiv 2503.20783)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dapo_lightning.algorithm.tokens import CountedTokens


@dataclass(frozen=True)
class Constant:
    """1 / (completions * max_tokens): no length influences the weight of a token, neither that of its own completion
    nor those of others, so that the loss is an unbiased estimate of the policy gradient (section 3).

    Completions are those of the mini-batch, in the loss or not.

    Args:
        max_tokens: a constant, usually the longest possible completion. It only scales the loss.

    Raises:
        ValueError: if max_tokens is not positive.
    """

    max_tokens: int

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"loss.max_tokens={self.max_tokens}: must be at least 1, usually max_new_tokens.")

    def weights(self, tokens: CountedTokens) -> Tensor:
        """[B, 1]."""
        num_completions = len(tokens.mask_BT)
        return torch.full((num_completions, 1), 1 / (num_completions * self.max_tokens))
