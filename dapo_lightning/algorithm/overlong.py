"""Overlong reward shaping (section 3.4): a penalty on length, a mask for truncated completions, or both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoOverlong:
    """Truncated and long completions are treated like all others."""

    def penalty(self, num_tokens: Tensor) -> Tensor:
        """The number added to the reward of each completion: 0."""
        return torch.zeros_like(num_tokens, dtype=torch.float32)

    def loss_mask(self, truncated_B: Tensor) -> Tensor:
        """Which completions are in the loss and in its denominator, [B] bool: all of them."""
        return torch.ones_like(truncated_B)


@dataclass(frozen=True)
class Punish(NoOverlong):
    """Soft overlong punishment, Eq. 13, added to the reward:

        0                                                  if |y| <= max_tokens - cache_tokens
        ((max_tokens - cache_tokens) - |y|) / cache_tokens up to max_tokens
        -1                                                 beyond

    The paper: max_tokens 20480, cache_tokens 4096.

    Raises:
        ValueError: if cache_tokens is not in 1..max_tokens.
    """

    max_tokens: int
    cache_tokens: int

    def __post_init__(self) -> None:
        if not 0 < self.cache_tokens <= self.max_tokens:
            raise ValueError(
                f"overlong.cache_tokens={self.cache_tokens} must lie in 1..overlong.max_tokens={self.max_tokens}: "
                "it is the stretch before the limit over which the punishment grows (the paper: 4096 of 20480). "
                "overlong=none switches the punishment off."
            )

    def penalty(self, num_tokens: Tensor) -> Tensor:
        """The number added to the reward of each completion, in [-1, 0]."""
        free = self.max_tokens - self.cache_tokens
        return ((free - num_tokens.float()) / self.cache_tokens).clamp(-1.0, 0.0)


@dataclass(frozen=True)
class Filter(NoOverlong):
    """Overlong filtering: truncated completions are excluded from the loss and from its denominator; their rewards
    still enter the baseline of their group. The paper's best run does not use it."""

    def loss_mask(self, truncated_B: Tensor) -> Tensor:
        """Which completions are in the loss and in its denominator, [B] bool: those that were not truncated."""
        return ~truncated_B


@dataclass(frozen=True)
class PunishAndFilter(Punish, Filter):
    """Both: long completions are punished, and truncated completions are masked."""
