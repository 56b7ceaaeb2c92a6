"""How a model must be run so that sampling, the update and a plain forward pass give the same log-probs.

`dapo_lightning.policy.trial` and `dapo_lightning.forward.head` find this out when a policy is loaded. Whether prompts
are shared is not part of it, but depends on the model's attention (`dapo_lightning.forward.layout`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

_NAME = "_dapo_lightning_ways"


@dataclass(frozen=True)
class Ways:
    """The ways in which a model may be run.

    Args:
        pads_prompts: whether prompts of unequal length may be padded on the left and run together. Otherwise, only rows
            with equally long prompts run together.
        continues: whether decoding may continue from the model's own cache. Otherwise, all tokens are read again for
            each new token, so the cost of decoding grows with the number of tokens.
        head_is_last: whether the model returns the output of its LM head unchanged, so that the head may return
            something other than logits (`dapo_lightning.forward.head`).
    """

    pads_prompts: bool = True
    continues: bool = True
    head_is_last: bool = False


def ways_of(model: nn.Module) -> Ways:
    """Returns the ways that `set_ways` has stored with the model, or by default the ways that allow everything."""
    return getattr(model, _NAME, Ways())


def set_ways(model: nn.Module, ways: Ways) -> None:
    """Stores the ways with the model, where copies of it and adapters on it find them. They are not saved."""
    setattr(model, _NAME, ways)
