"""An entropy bonus in the objective, as in A3C and PPO (arXiv 1602.01783, 1707.06347)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dapo_lightning.algorithm.tokens import Mean, PerToken, Tokens


@dataclass(frozen=True)
class EntropyBonus:
    """objective + coefficient * entropy of the policy at each token.

    Raises:
        ValueError: if the coefficient is not positive.
    """

    coefficient: float
    needs_entropies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.coefficient < math.inf:
            raise ValueError(
                f"entropy.coefficient={self.coefficient}: must be positive and finite; entropy=none switches it off."
            )

    def __call__(self, objective_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective of each token with the bonus."""
        assert tokens.entropies_BT is not None
        entropies_BT = tokens.entropies_BT
        return PerToken(
            objective_BT + self.coefficient * entropies_BT, {"entropy/trained": Mean(entropies_BT.detach())}
        )
