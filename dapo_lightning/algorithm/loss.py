"""Loss aggregation: per-token objectives -> scalar (Eq. 8 and section 3.3, "Token-Level Policy Gradient Loss").

Every aggregation in use is a weighted sum in which all tokens of a completion weigh the same, so an
option is one method: how many counted tokens each completion of the WHOLE mini-batch has (all
micro-batches, all ranks) -> its weight.  `weighted_sum` then adds up any slice of the mini-batch, and
the slices add up to the same loss however it is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def weighted_sum(objective_BT: Tensor, mask_BT: Tensor, weights_B: Tensor) -> Tensor:
    """loss = - sum_b w_b sum_t mask_bt * objective_bt, a scalar; masked tokens cannot matter, not even NaN ones."""
    return -(objective_BT.where(mask_BT, 0.0).sum(dim=1) * weights_B).sum()


def _shares(num_tokens_B: Tensor, total: Tensor) -> Tensor:
    """1 / total for completions that count, 0 for those masked out; all 0 if nothing counts."""
    return (num_tokens_B > 0).float() / total.clamp(min=1)


@dataclass(frozen=True)
class TokenLevel:
    """1 / (tokens of the mini-batch): every token weighs the same, long completions count by their length.

    The mini-batch is the whole set of completions of one gradient step, over all ranks.
    """

    def weights(self, num_tokens_B: Tensor, group_B: Tensor) -> Tensor:
        """[B] counted tokens and [B] group of each completion -> [B] weight of each of its tokens."""
        return _shares(num_tokens_B, num_tokens_B.sum())


@dataclass(frozen=True)
class TokenLevelPerPrompt:
    """1 / (groups * tokens of the group): Eq. 8 as written, where the sum runs over the completions of one
    prompt and the expectation over prompts is a plain mean."""

    def weights(self, num_tokens_B: Tensor, group_B: Tensor) -> Tensor:
        """[B] counted tokens and [B] group of each completion -> [B] weight of each of its tokens."""
        _, group_B = group_B.unique(return_inverse=True)
        num_tokens_P = torch.zeros(int(group_B.max()) + 1, dtype=num_tokens_B.dtype)
        num_tokens_P.index_add_(0, group_B, num_tokens_B)
        num_groups = (num_tokens_P > 0).sum().clamp(min=1)
        return _shares(num_tokens_B, num_tokens_P[group_B]) / num_groups


@dataclass(frozen=True)
class SampleLevel:
    """1 / (completions * tokens of the completion): GRPO's mean over samples of the mean over tokens (Eq. 5)."""

    def weights(self, num_tokens_B: Tensor, group_B: Tensor) -> Tensor:
        """[B] counted tokens and [B] group of each completion -> [B] weight of each of its tokens."""
        num_samples = (num_tokens_B > 0).sum().clamp(min=1)
        return _shares(num_tokens_B, num_tokens_B) / num_samples


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

    def weights(self, num_tokens_B: Tensor, group_B: Tensor) -> Tensor:
        """[B] counted tokens and [B] group of each completion -> [B] weight of each of its tokens."""
        token_B = TokenLevel().weights(num_tokens_B, group_B)
        sample_B = SampleLevel().weights(num_tokens_B, group_B)
        return torch.lerp(sample_B, token_B, self.token_weight)
