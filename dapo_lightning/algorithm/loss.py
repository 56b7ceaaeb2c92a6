"""Loss aggregation: per-token objectives -> scalar (Eq. 8 and section 3.3, "Token-Level Policy Gradient Loss").

Every aggregation is a weighted sum over tokens, so an option has a single method. It computes the weight of each token
from all tokens in the loss of the WHOLE mini-batch (all micro-batches, all ranks), before the first forward pass.
`weighted_sum` then adds up any part of the mini-batch, and the parts add up to the same loss however it is divided.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dapo_lightning.algorithm.tokens import CountedTokens


def weighted_sum(objective_BT: Tensor, mask_BT: Tensor, weights: Tensor) -> Tensor:
    """loss = - sum_bt w_bt mask_bt objective_bt, a scalar. Masked tokens have no influence, even if they are NaN.

    Args:
        weights: [B, 1], one weight for all tokens of a row, or [B, T].
    """
    objective_BT = objective_BT.where(mask_BT, 0.0)
    if weights.shape[1] == 1:  # one product for each row instead of one for each token
        return -(objective_BT.sum(dim=1, keepdim=True) * weights).sum()
    return -(objective_BT * weights).sum()


def _shares(num_tokens_B: Tensor, total: Tensor) -> Tensor:
    """[B, 1]: 1 / total for completions with tokens in the loss, 0 for the others."""
    return ((num_tokens_B > 0).float() / total.clamp(min=1))[:, None]


@dataclass(frozen=True)
class TokenLevel:
    """1 / (tokens of the mini-batch): every token weighs the same, long completions count by their length.

    The mini-batch is the whole set of completions of one gradient step, over all ranks.
    """

    def weights(self, tokens: CountedTokens) -> Tensor:
        """[B, 1]."""
        return _shares(tokens.num_tokens_B, tokens.num_tokens_B.sum())


@dataclass(frozen=True)
class TokenLevelPerPrompt:
    """1 / (groups * tokens of the group): Eq. 8 as written, where the sum runs over the completions of one
    prompt and the expectation over prompts is a plain mean."""

    def weights(self, tokens: CountedTokens) -> Tensor:
        """[B, 1]."""
        num_tokens_B = tokens.num_tokens_B
        _, group_B = tokens.group_B.unique(return_inverse=True)
        num_tokens_P = torch.zeros(int(group_B.max()) + 1, dtype=num_tokens_B.dtype)
        num_tokens_P.index_add_(0, group_B, num_tokens_B)
        num_groups = (num_tokens_P > 0).sum().clamp(min=1)
        return _shares(num_tokens_B, num_tokens_P[group_B]) / num_groups


@dataclass(frozen=True)
class SampleLevel:
    """1 / (completions * tokens of the completion): GRPO's mean over samples of the mean over tokens (Eq. 5)."""

    def weights(self, tokens: CountedTokens) -> Tensor:
        """[B, 1]."""
        num_samples = (tokens.num_tokens_B > 0).sum().clamp(min=1)
        return _shares(tokens.num_tokens_B, tokens.num_tokens_B) / num_samples


@dataclass(frozen=True)
class Blend:
    """(1 - token_weight) * SampleLevel + token_weight * TokenLevel: a dial between GRPO (0) and DAPO (1).

    Raises:
        ValueError: if token_weight is outside [0, 1].
    """

    token_weight: float

    def __post_init__(self) -> None:
        if not 0 <= self.token_weight <= 1:
            raise ValueError(f"loss.token_weight={self.token_weight}: 0 is sample-level, 1 is token-level.")

    def weights(self, tokens: CountedTokens) -> Tensor:
        """[B, 1]."""
        return torch.lerp(SampleLevel().weights(tokens), TokenLevel().weights(tokens), self.token_weight)
