"""Excludes tokens on which sampler and policy differ too much from the loss. `correction` weights the others.

The denominators of the loss are counted before the first forward pass, so that excluded tokens still count there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dapo_lightning.algorithm.tokens import PerToken, Tokens


@dataclass(frozen=True)
class NoRejection:
    """No token is excluded."""

    reweights = False

    def __call__(self, tokens: Tokens) -> PerToken:
        """The factor 1 for each token."""
        return PerToken(torch.ones_like(tokens.old_logps_BT))
