"""How a model must be run so that sampling, the update and a plain forward pass give the same log-probs.

`dapo_lightning.policy.trial` finds it out when a policy is loaded; whether prompts are shared is a matter of the
model's attention (`dapo_lightning.forward.layout`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

_NAME = "_dapo_lightning_ways"


@dataclass(frozen=True)
class Ways:
    """The ways in which a model may be run.

    Args:
        pads_prompts: prompts of unequal length may be padded on the left and run together. Otherwise only rows with
            equally long prompts are.
        continues: decoding may go on from the cache that the model made. Otherwise all tokens are read again for each
            new one, which costs as many times more as there are tokens.
    """

    pads_prompts: bool = True
    continues: bool = True


def ways_of(model: nn.Module) -> Ways:
    """What was found out about the model, with or without adapters around it; by default everything is allowed."""
    return getattr(model, _NAME, Ways())


def set_ways(model: nn.Module, ways: Ways) -> None:
    """Stores what was found out with the model, where copies and adapters find it, too; it is not saved."""
    setattr(model, _NAME, ways)
