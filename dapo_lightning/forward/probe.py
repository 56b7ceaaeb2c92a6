"""Switches a policy to attention that shares prompts, if it then still computes what it computed before."""

from __future__ import annotations

import logging

import torch
from transformers import PreTrainedModel

from dapo_lightning.forward.layout import SHARED_PROMPT
from dapo_lightning.forward.logprobs import completion_logps

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # of log-probs


def share_prompts(model: PreTrainedModel) -> bool:
    """Switches the model to `SHARED_PROMPT`; back to what it had, if log-probs of a small batch come out different.

    They do where a layer attends in a way of its own (sliding windows, soft caps, biases) or not at all.  Trying tells
    more than any list of models could.
    """
    before, name = model.config._attn_implementation, type(model).__name__
    expected = _logps(model)
    try:
        model.set_attn_implementation(SHARED_PROMPT)
        difference = float((_logps(model) - expected).abs().max())
        reason = "" if difference <= TOLERANCE[model.dtype] else f"log-probs differ by {difference:.2g}"
    except Exception as error:  # whatever it was that the model could not do
        reason = str(error) or type(error).__name__
    if reason:
        model.set_attn_implementation(before)
        log.info("%s cannot share prompts (%s): each completion computes its own", name, reason)
    return not reason


@torch.no_grad()
def _logps(model: PreTrainedModel) -> torch.Tensor:
    """Two prompts, one of them shared, and completions of unequal length."""
    numbers = torch.arange(40) * 7 % (model.get_input_embeddings().num_embeddings - 1) + 1
    prompts = [tuple(numbers[:9].tolist()), tuple(numbers[9:14].tolist())]
    completions = [numbers[start : start + length] for start, length in ((14, 8), (22, 1), (25, 6), (31, 9))]
    device = model.get_input_embeddings().weight.device
    with torch.autocast(device.type, enabled=False):
        return completion_logps(model, [prompts[0], prompts[0], prompts[0], prompts[1]], completions, 1.0)[0]
