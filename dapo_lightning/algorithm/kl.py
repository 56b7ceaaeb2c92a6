"""Penalty on the divergence from the reference copy. GRPO has one, and DAPO removes it (section 2.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from dapo_lightning.algorithm.ratio import log_ratio
from dapo_lightning.algorithm.tokens import Mean, PerToken, Tokens


@dataclass(frozen=True)
class NoKL:
    """No penalty, and no reference copy."""

    needs_reference: ClassVar[bool] = False

    def __call__(self, tokens: Tokens) -> PerToken:
        """The penalty 0 for each token."""
        return PerToken(torch.zeros_like(tokens.logps_BT))


@dataclass(frozen=True)
class Penalty:
    """coefficient * an estimate of KL(pi || pi_ref) for each token.

    Args:
        coefficient: factor of the estimate; with a target, that of the first step.
        place: "loss" subtracts the penalty from the objective, so that its gradient moves the policy; "reward"
            subtracts it from the reward of each token at sampling, as PPO for language models does (arXiv 1909.08593,
            Eq. 2), which needs an advantage of single tokens.
        target: divergence in nats per token that the coefficient is adapted to; None keeps it constant.
        rate: how fast it is adapted: coefficient * (1 + rate * clip(divergence / target - 1, -0.2, 0.2)) after each
            DAPO step (the same paper, section 2.2: 0.1).

    Raises:
        ValueError: if a number is not positive, or if the place is unknown.
    """

    coefficient: float
    place: str = "loss"
    target: float | None = None
    rate: float = 0.1
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.coefficient < math.inf:
            raise ValueError(
                f"kl.coefficient={self.coefficient}: must be positive and finite; kl=none switches the penalty off."
            )
        if self.place not in ("loss", "reward"):
            raise ValueError(f"kl.place={self.place!r}: choose 'loss' or 'reward'.")
        for name in ("target", "rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"kl.{name}={value}: must be positive and finite.")

    @property
    def in_reward(self) -> bool:
        """Whether the penalty is part of the rewards of tokens instead of the loss."""
        return self.place == "reward"

    def estimate(self, logps: Tensor, reference_logps: Tensor) -> Tensor:
        """An estimate of the divergence for each token."""
        raise NotImplementedError

    def rewards(self, old_logps_T: Tensor, reference_logps_T: Tensor) -> Tensor:
        """What `place=reward` adds to the reward of each token, [T]."""
        return -self.coefficient * self.estimate(old_logps_T, reference_logps_T)

    def __call__(self, tokens: Tokens) -> PerToken:
        """The penalty that is subtracted from the objective of each token."""
        assert tokens.reference_logps_BT is not None
        divergence_BT = self.estimate(tokens.logps_BT, tokens.reference_logps_BT)
        metrics = {"kl/reference": Mean(divergence_BT.detach())}
        if self.target is not None:
            metrics["kl/coefficient"] = Mean(torch.full_like(divergence_BT.detach(), self.coefficient))
        return PerToken((0.0 if self.in_reward else self.coefficient) * divergence_BT, metrics)

    def adapted(self, metrics: Mapping[str, float]) -> Self:
        """The penalty for the next DAPO step."""
        if self.target is None or "kl/reference" not in metrics:
            return self
        error = min(max(metrics["kl/reference"] / self.target - 1, -0.2), 0.2)
        return replace(self, coefficient=self.coefficient * (1 + self.rate * error))


@dataclass(frozen=True)
class K1(Penalty):
    """The log-ratio -d, d = log pi_ref - log pi: unbiased, may be negative, high variance. It belongs to the reward: as
    a loss, it would have the gradient of log pi, which is zero on average."""

    place: str = "reward"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.in_reward:
            raise ValueError(
                f"kl.place={self.place} with kl=k1: the gradient of this estimate is zero on average, so it would only "
                "add noise. Use kl.place=reward, or kl=k2 or kl=k3."
            )

    def estimate(self, logps: Tensor, reference_logps: Tensor) -> Tensor:
        """-d."""
        return -log_ratio(reference_logps, logps)


@dataclass(frozen=True)
class K2(Penalty):
    """d^2 / 2 (Schulman's k2): biased, never negative; as a loss, its gradient is that of KL(pi || pi_ref) for
    on-policy samples."""

    def estimate(self, logps: Tensor, reference_logps: Tensor) -> Tensor:
        """d^2 / 2."""
        return log_ratio(reference_logps, logps).square() / 2


@dataclass(frozen=True)
class K3(Penalty):
    """exp(d) - d - 1: GRPO's estimator (Schulman's k3: unbiased for on-policy samples, never negative)."""

    def estimate(self, logps: Tensor, reference_logps: Tensor) -> Tensor:
        """exp(d) - d - 1."""
        return k3(reference_logps, logps)


def k3(logps_q_BT: Tensor, logps_p_BT: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = log q - log p: an estimate of KL(p || q) from samples of p, [B, T]."""
    log_ratio_BT = log_ratio(logps_q_BT, logps_p_BT)
    return log_ratio_BT.expm1() - log_ratio_BT
