"""Prompts and completions -> log-probs of every completion token, by one teacher-forced forward pass.

Whatever needs log-probs of given tokens (update, reference copy, old log-probs) takes them from here, so that all of
them are those of the whole policy at the sampling temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dapo_lightning.forward.layout import forward, is_switched
from dapo_lightning.forward.packed_layout import PackedLayout


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
    with_entropies: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs of the completion tokens under softmax(logits / temperature), in fp32, with a gradient.

    Args:
        prompts: B prompts, token ids.
        completions: B tensors [T_b] of token ids.
        with_entropies: also return the entropies of the distributions that predict the tokens, in nats.

    Returns:
        logps_BT, and entropies_BT or None; both are 0 in the padding on the right.
    """
    device = model.get_input_embeddings().weight.device
    mask_BT = right_pad([torch.ones(len(c), dtype=torch.bool) for c in completions], device)
    logits_of = _packed_logits if is_switched(model) else _padded_logits
    logits_NV, ids_N = logits_of(model, prompts, completions, mask_BT)
    logits_NV = logits_NV.float()
    if temperature != 1:  # the division would copy [N, V] numbers
        logits_NV = logits_NV / temperature
    zeros_BT = torch.zeros(mask_BT.shape, device=device)
    logps_BT = zeros_BT.masked_scatter(mask_BT, -nn.functional.cross_entropy(logits_NV, ids_N, reduction="none"))
    if not with_entropies:
        return logps_BT, None
    log_p_NV = logits_NV.log_softmax(dim=1)
    return logps_BT, zeros_BT.masked_scatter(mask_BT, -(log_p_NV.exp() * log_p_NV).sum(dim=1))


def _packed_logits(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], completions: Sequence[Tensor], mask_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits [N, V] that predict the completion tokens, row after row, and those tokens [N]; nothing is computed twice,
    or for padding.

    The last token of a completion is not fed, because nothing is predicted from it.
    """
    layout = PackedLayout(prompts, [len(completion) - 1 for completion in completions], mask_BT.device)
    fed = [torch.tensor(prompt) for prompt in layout.prompts] + [completions[row][:-1] for row in layout.order]
    starts = dict(zip(layout.order, accumulate(layout.lengths, initial=layout.block.stop), strict=False))
    last_of_prompt = dict(zip(layout.order, map(layout.last_of_prompts().__getitem__, layout.prompt_of), strict=True))
    predicts = [
        torch.tensor([last_of_prompt[row], *range(starts[row], starts[row] + len(completion) - 1)])
        for row, completion in enumerate(completions)
    ]
    tokens, keep, ids = (torch.cat(parts).to(mask_BT.device) for parts in (fed, predicts, list(completions)))
    logits_NV = forward(model, tokens[None], layout.position_ids().to(tokens.device), layout, keep)[0]
    return logits_NV, ids


def _padded_logits(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], completions: Sequence[Tensor], mask_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """The same for any model: each row with its prompt, prompts padded on the left and completions on the right."""
    prompt_BS, prompt_mask_BS = left_pad(prompts, mask_BT.device)
    tokens_BT = right_pad(completions, mask_BT.device)
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
    return logits_BTV[mask_BT], tokens_BT[mask_BT]
