"""Attention that knows which completions share a prompt, behind Hugging Face's attention interface.

The completions of a group begin with the same prompt. A model that is switched to `SHARED_PROMPT` receives a `Layout`
together with its tokens; the layout says which token belongs to which row, and attends in place of the model's own
attention. Each prompt is thus computed once for all of its completions, and padding exists only inside attention.
Without a layout, a switched model attends with sdpa as before.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

# Undocumented: the functions behind `attn_implementation="sdpa"`. If they move, importing this file fails.
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHARED_PROMPT = "shared_prompt"
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")


class Layout(Protocol):
    """How the tokens of a forward pass belong together. H query heads, K key heads, D numbers per head.

    `longest`: tokens of the longest prompt with a completion.
    """

    longest: int

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[b, H, n, D], [b, K, n, D], [b, K, n, D] -> [b, n, H, D], for the b rows of n tokens given to the model."""
        ...


class UnsupportedAttentionError(ValueError):
    """A layer needs something that layouts do not offer, such as a window that is shorter than a row."""


def layout_inputs(tokens: Tensor, position_ids: Tensor, layout: Layout, keep: Tensor | int) -> dict[str, Any]:
    """What a switched model is called with; `keep` selects positions as `logits_to_keep` does."""
    return {
        "input_ids": tokens,
        "position_ids": position_ids,
        "attention_mask": _NO_MASK.to(tokens.device),
        "layout": layout,
        "logits_to_keep": keep,
        "use_cache": False,
    }


def forward(model: PreTrainedModel, tokens: Tensor, position_ids: Tensor, layout: Layout, keep: Tensor | int) -> Tensor:
    """Logits of a switched model, [b, kept, V]."""
    return model(**layout_inputs(tokens, position_ids, layout, keep)).logits


_NO_MASK = torch.zeros(1, 1, 1, 1)  # transformers passes a mask of four dimensions on, instead of building its own


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
    unsupported = [name for name in _UNSUPPORTED if others.get(name) is not None]
    window = others.get("sliding_window")
    if window is not None and layout.longest > window:
        unsupported.append("a sliding_window shorter than rows")
    if unsupported or dropout:
        raise UnsupportedAttentionError(f"attention with {', '.join(unsupported) or 'dropout'}")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return layout.attend(module.layer_idx, query, key, value, scaling), None  # type: ignore[arg-type]


AttentionInterface.register(SHARED_PROMPT, _shared_prompt_attention)
AttentionMaskInterface.register(SHARED_PROMPT, sdpa_mask)


def attention_of(model: PreTrainedModel) -> str:
    """Returns the name of the model's attention, for which transformers has only this private attribute."""
    return model.config._attn_implementation


def is_switched(model: PreTrainedModel) -> bool:
    """Whether the model accepts a layout."""
    return attention_of(model) == SHARED_PROMPT
