"""Attention that knows which completions share a prompt, behind Hugging Face's attention interface.

The completions of a group begin with the same prompt.  A model that is switched to `SHARED_PROMPT` gets its tokens
with a `Layout` beside them, which says which token belongs to what; the layout attends in place of the model's own
attention.  So a prompt is computed once for all of its completions, and no token of padding is computed at all except
inside attention.  Without a layout the switched model is what it was: it attends with sdpa.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHARED_PROMPT = "shared_prompt"


class Layout(Protocol):
    """What the tokens of a forward pass are to each other. H query heads, K key heads, D numbers per head."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[b, H, n, D], [b, K, n, D], [b, K, n, D] -> [b, n, H, D], for the b rows of n tokens given to the model."""
        ...


class UnsupportedAttentionError(ValueError):
    """A layer asks for something that layouts cannot do, such as a sliding window."""


def forward(model: PreTrainedModel, tokens: Tensor, position_ids: Tensor, layout: Layout, keep: Tensor | int) -> Tensor:
    """Logits of a switched model [b, kept, V]; `keep` picks positions as `logits_to_keep` does."""
    return model(
        input_ids=tokens,
        position_ids=position_ids,
        attention_mask=_NO_MASK.to(tokens.device),
        layout=layout,
        logits_to_keep=keep,
        use_cache=False,
    ).logits


_NO_MASK = torch.zeros(1, 1, 1, 1)  # Hugging Face leaves a mask of four dimensions as it is, and makes none of its own


def _shared_prompt_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
    asked = [name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if asked or dropout:
        raise UnsupportedAttentionError(f"attention with {', '.join(asked) or 'dropout'}")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return layout.attend(module.layer_idx, query, key, value, scaling), None  # type: ignore[arg-type]


AttentionInterface.register(SHARED_PROMPT, _shared_prompt_attention)
AttentionMaskInterface.register(SHARED_PROMPT, sdpa_mask)


def shares_prompts(model: PreTrainedModel) -> bool:
    """Whether the model takes a layout."""
    return model.config._attn_implementation == SHARED_PROMPT
