"""Objectives that depend on the entropy of the policy, which falls in training. DAPO relies on Clip-Higher alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dapo_lightning.algorithm.tokens import PerToken, Tokens


@dataclass(frozen=True)
class NoEntropy:
    """Nothing: the entropy is only logged."""

    def __call__(self, objective_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective of each token, as it is."""
        return PerToken(objective_BT)
