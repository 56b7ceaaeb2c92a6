"""The critic: a second network that predicts the return of each state. PPO has one; GRPO and DAPO have none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dapo_lightning.algorithm.tokens import ExplainedVariance, Mean, PerToken


@dataclass(frozen=True)
class NoCritic:
    """No critic, and no values."""

    gives_values: ClassVar[bool] = False


@dataclass(frozen=True)
class ValueModel:
    """A model of the policy's architecture with one output instead of logits; it starts with the policy's weights.

    Its loss for each token, with the value V, the value at sampling V_old and the return R, is
        1/2 max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2)
    (PPO's value clipping as in OpenAI's baselines, verl and TRL; without a clip, 1/2 (V - R)^2).

    Args:
        learning_rate: of the critic; that of the policy is optimizer.lr.
        clip: how far a value may move from the one at sampling before its gradient vanishes; None: no bound.
        pretraining_steps: DAPO steps at the beginning in which only the critic is trained (VAPO, arXiv 2504.05118,
            section 4.1).

    Raises:
        ValueError: if a number is out of range.
    """

    learning_rate: float
    clip: float | None = None
    pretraining_steps: int = 0
    gives_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"critic.learning_rate={self.learning_rate}: must be positive and finite.")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"critic.clip={self.clip}: must be positive and finite; null switches value clipping off.")
        if self.pretraining_steps < 0:
            raise ValueError(f"critic.pretraining_steps={self.pretraining_steps}: must be at least 0.")

    def loss(self, values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor) -> PerToken:
        """The loss to minimise for each token."""
        errors_BT = (values_BT - returns_BT).square()
        clipped_BT = torch.zeros_like(errors_BT, dtype=torch.bool)
        if self.clip is not None:
            near_BT = torch.clamp(values_BT, old_values_BT - self.clip, old_values_BT + self.clip)
            bounded_BT = (near_BT - returns_BT).square()
            clipped_BT = bounded_BT > errors_BT
            errors_BT = torch.where(clipped_BT, bounded_BT, errors_BT)
        losses_BT = errors_BT / 2
        return PerToken(
            losses_BT,
            {
                "critic/loss": Mean(losses_BT.detach()),
                "critic/clip_fraction": Mean(clipped_BT.float()),
                "critic/value": Mean(values_BT.detach()),
                "critic/return": Mean(returns_BT),
                "critic/explained_variance": ExplainedVariance(old_values_BT, returns_BT),
            },
        )
