"""Switches a model to attention that shares prompts, if it then computes the same log-probs as before."""

from __future__ import annotations

import logging

import torch
from transformers import PreTrainedModel

from dapo_lightning.forward.layout import SHARED_PROMPT, attention_of
from dapo_lightning.forward.logprobs import completion_logps

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # of log-probs


def try_shared_prompts(model: PreTrainedModel) -> bool:
    """Switches the model to `SHARED_PROMPT`, and back if that changes the log-probs of a small batch.

    It changes them if layers use another kind of attention (sliding windows, soft caps, biases) or none at all.
    Trying is more reliable than any list of models.

    Returns:
        Whether the model is switched now.
    """
    before = attention_of(model)
    expected = short_logps(model)
    try:
        model.set_attn_implementation(SHARED_PROMPT)
        difference = float((short_logps(model) - expected).abs().max())
        reason = "" if difference <= TOLERANCE[model.dtype] else f"log-probs differ by {difference:.2g}"
    except Exception as error:  # models fail in unforeseeable ways
        reason = str(error) or type(error).__name__
    if reason:
        model.set_attn_implementation(before)
        log.info(
            "%s cannot share prompts (%s): each completion of a group computes the prompt again, and rows are padded",
            type(model).__name__, reason,
        )  # fmt: skip
    return not reason


@torch.no_grad()
def short_logps(model: PreTrainedModel) -> torch.Tensor:
    """Returns log-probs of completions of unequal length for two prompts, one of which is shared."""
    numbers = torch.arange(40) * 7 % (model.get_input_embeddings().weight.shape[0] - 1) + 1
    shared, other = tuple(numbers[:9].tolist()), tuple(numbers[9:14].tolist())
    completions = [numbers[start : start + length] for start, length in ((14, 8), (22, 1), (25, 6), (31, 9))]
    with torch.autocast(model.get_input_embeddings().weight.device.type, enabled=False):
        return completion_logps(model, [shared, shared, shared, other], completions, 1.0)[0]
