"""Prompts and completions -> log-probs of every completion token, by one teacher-forced forward pass.

Every place that needs log-probs of given tokens (update, reference copy, recomputation) goes through here,
so that all of them mean the same: the untruncated policy at the sampling temperature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def left_pad(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """P prompts of unequal length -> tokens_PS padded on the left (with 0), mask_PS (1 = real token)."""
    width = max(len(prompt) for prompt in prompts)
    tokens_PS = torch.zeros(len(prompts), width, dtype=torch.long)
    mask_PS = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens_PS[row, width - len(prompt) :] = torch.tensor(prompt)
        mask_PS[row, width - len(prompt) :] = 1
    return tokens_PS.to(device), mask_PS.to(device)


def right_pad(rows: Sequence[Tensor], device: torch.device) -> Tensor:
    """B tensors [T_b] -> [B, T] padded on the right with 0."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True).to(device)


def positions(mask: Tensor) -> Tensor:
    """Position of each token counted from the first real one; padding gets 0. [B, S] -> [B, S]."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def completion_logps(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Tensor],
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Log-probs of the completion tokens under softmax(logits / temperature), in fp32.

    Args:
        prompts: B prompts, token ids.
        completions: B tensors [T_b] of token ids.

    Returns:
        logps_BT and mask_BT (True = a completion token); padding has log-prob 0.
    """
    device = model.get_input_embeddings().weight.device
    prompt_BS, prompt_mask_BS = left_pad(prompts, device)
    tokens_BT = right_pad(completions, device)
    mask_BT = right_pad([torch.ones(len(c), dtype=torch.bool) for c in completions], device)
    attention = torch.cat([prompt_mask_BS, mask_BT.long()], dim=1)
    # The LM head is applied only where a completion token is predicted: the last prompt position and all
    # completion positions but the last.
    logits_BTV = model(
        input_ids=torch.cat([prompt_BS, tokens_BT], dim=1)[:, :-1],
        attention_mask=attention[:, :-1],
        position_ids=positions(attention)[:, :-1],
        logits_to_keep=tokens_BT.shape[1],
        use_cache=False,
    ).logits
    scaled_BTV = logits_BTV.float() / temperature
    chosen_BT = scaled_BTV.gather(2, tokens_BT[:, :, None]).squeeze(2)
    return (chosen_BT - scaled_BTV.logsumexp(dim=2)).where(mask_BT, 0.0), mask_BT
