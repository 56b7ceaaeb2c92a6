"""The network of a critic: the policy's, with one output instead of logits."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dapo_lightning.policy import Policy


class ValueHead(nn.Linear):
    """Hidden state -> value. It begins at 0, even if the other weights have no values yet (see `Policy.shards`), and
    computes in float32 under autocast too, because bfloat16 would round values to three digits."""

    def __init__(self, hidden_size: int, device: torch.device):
        super().__init__(hidden_size, 1, device="cpu" if device.type == "meta" else device)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight.float(), self.bias.float())


def value_model(policy: Policy) -> Policy:
    """Returns a copy of the policy whose model returns values, [b, kept, 1], in place of logits.

    Frozen weights are not copied: with LoRA, the critic has adapters and a head of its own on the policy's model.
    """
    frozen = {id(weight): weight for weight in policy.model.parameters() if not weight.requires_grad}
    model = copy.deepcopy(policy.model, memo=dict(frozen))
    head = policy.model.get_output_embeddings()
    model.set_output_embeddings(ValueHead(head.weight.shape[1], head.weight.device))
    model.config.tie_word_embeddings = False
    return Policy(model.eval(), policy.codec, recomputes=policy.recomputes, shards=policy.shards)
