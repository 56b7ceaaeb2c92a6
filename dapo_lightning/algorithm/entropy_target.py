"""An entropy bonus whose coefficient follows a target (Skywork-OR1, arXiv 2505.22312)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dapo_lightning.algorithm.tokens import Mean, PerToken, Tokens


@dataclass(frozen=True)
class EntropyTarget:
    """objective + coefficient * entropy, if the entropy was at or below the target in the last DAPO step.

    After each step in which the policy was trained, the coefficient rises by `delta` if the entropy of the sampled
    tokens is at or below the target, and falls by it otherwise, between 0 and `maximum`. Coefficient and state are
    saved in checkpoints.

    Args:
        target: entropy in nats.
        is_low: whether the entropy was at or below the target in the last step.

    Raises:
        ValueError: if a number is out of range.
    """

    target: float
    delta: float
    maximum: float = 1.0
    coefficient: float = 0.0
    is_low: bool = False
    needs_entropies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("target", "delta", "maximum"):
            if not getattr(self, name) > 0:
                raise ValueError(f"entropy.{name}={getattr(self, name)}: must be positive.")
        if not 0 <= self.coefficient <= self.maximum:
            raise ValueError(
                f"entropy.coefficient={self.coefficient}: must lie in [0, entropy.maximum={self.maximum}]."
            )

    def __call__(self, objective_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective of each token with the bonus."""
        assert tokens.entropies_BT is not None
        applied_BT = torch.full_like(objective_BT, self.coefficient if self.is_low else 0.0).detach()
        metrics = {"entropy/coefficient": Mean(applied_BT), "entropy/trained": Mean(tokens.entropies_BT.detach())}
        return PerToken(objective_BT + applied_BT * tokens.entropies_BT, metrics)

    def adapted(self, metrics: Mapping[str, float]) -> EntropyTarget:
        """The option for the next DAPO step, given the metrics of this one."""
        if "entropy/coefficient" not in metrics:  # the policy was not trained
            return self
        is_low = metrics["entropy"] <= self.target
        coefficient = self.coefficient + (self.delta if is_low else -self.delta)
        return replace(self, coefficient=min(max(coefficient, 0.0), self.maximum), is_low=is_low)
