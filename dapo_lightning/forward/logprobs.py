"""Prompts and completions -> log-probs of every completion token, by one teacher-forced forward pass.

Whatever needs log-probs of given tokens (update, reference copy, old log-probs) takes them from here, so that all of
them are those of the whole policy at the sampling temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dapo_lightning.forward.head import head_of_tokens, token_statistics
from dapo_lightning.forward.layout import is_switched, layout_inputs
from dapo_lightning.forward.packed_layout import PackedLayout
from dapo_lightning.forward.ways import ways_of


def left_pad(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """P prompts of unequal length -> tokens_PS padded on the left, mask_PS (1 = real token).

    The padding is a token of the prompt, because some models divide by the embedding, which may be 0 for token 0.
    """
    width = max(len(prompt) for prompt in prompts)
    tokens_PS = torch.zeros(len(prompts), width, dtype=torch.long)
    mask_PS = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens_PS[row] = prompt[0]
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
    packed = is_switched(model)
    inputs, ids_N = (_packed if packed else _padded)(prompts, completions, mask_BT)
    wanted = None if packed else mask_BT
    if ways_of(model).head_is_last:
        with head_of_tokens(model, wanted, ids_N, temperature, with_entropies):
            found = model(**inputs).logits[0]
    else:
        logits = model(**inputs).logits
        found = token_statistics(
            logits[0] if packed else logits[:, -mask_BT.shape[1] :][mask_BT], ids_N, temperature, with_entropies
        )
    zeros_BT = torch.zeros(mask_BT.shape, device=device)
    logps_BT, *entropies = (zeros_BT.masked_scatter(mask_BT, values_N) for values_N in found.unbind(dim=1))
    return logps_BT, entropies[0] if with_entropies else None


def completion_values(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], completions: Sequence[Tensor]
) -> Tensor:
    """Values of the states before each completion token, in fp32, with a gradient, [B, T]; 0 in the padding.

    Args:
        model: returns one value for each position in place of logits (`dapo_lightning.policy.value_model`).
    """
    device = model.get_input_embeddings().weight.device
    mask_BT = right_pad([torch.ones(len(c), dtype=torch.bool) for c in completions], device)
    packed = is_switched(model)
    inputs, _ = (_packed if packed else _padded)(prompts, completions, mask_BT)
    values = model(**inputs).logits.squeeze(-1).float()
    found_N = values[0] if packed else values[:, -mask_BT.shape[1] :][mask_BT]
    return torch.zeros(mask_BT.shape, device=device).masked_scatter(mask_BT, found_N)


def _packed(
    prompts: Sequence[Sequence[int]], completions: Sequence[Tensor], mask_BT: Tensor
) -> tuple[dict[str, Any], Tensor]:
    """Returns the inputs with which a switched model predicts the N completion tokens, row after row, and these tokens
    [N]. Nothing is computed twice or for padding.

    The last token of a completion is not an input, because nothing is predicted from it.
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
    return layout_inputs(tokens[None], layout.position_ids().to(tokens.device), layout, keep), ids


def _padded(
    prompts: Sequence[Sequence[int]], completions: Sequence[Tensor], mask_BT: Tensor
) -> tuple[dict[str, Any], Tensor]:
    """Returns the same for any model, with a prediction for every element of [B, T]: each row contains its prompt.
    Prompts are padded on the left and completions on the right."""
    prompt_BS, prompt_mask_BS = left_pad(prompts, mask_BT.device)
    tokens_BT = right_pad(completions, mask_BT.device).where(mask_BT, prompt_BS[:, -1:])
    attention = torch.cat([prompt_mask_BS, mask_BT.long()], dim=1)
    # The LM head is applied only where a completion token is predicted: the last prompt position and all
    # completion positions but the last.
    inputs = {
        "input_ids": torch.cat([prompt_BS, tokens_BT], dim=1)[:, :-1],
        "attention_mask": attention[:, :-1],
        "position_ids": positions(attention)[:, :-1],
        "logits_to_keep": tokens_BT.shape[1],
        "use_cache": False,
    }
    return inputs, tokens_BT[mask_BT]
