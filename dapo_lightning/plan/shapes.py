"""Shapes of Qwen2.5 models, so that planning them needs no network. Source: `config.json` on their model cards."""

from __future__ import annotations

from transformers import PreTrainedConfig, Qwen2Config

_FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "tie_word_embeddings",
)  # fmt: skip
QWEN = {
    "Qwen/Qwen2.5-0.5B": (896, 4864, 24, 14, 2, 151936, True),
    "Qwen/Qwen2.5-7B": (3584, 18944, 28, 28, 4, 152064, False),
    "Qwen/Qwen2.5-32B": (5120, 27648, 64, 40, 8, 152064, False),
}


def known_config(name: str) -> PreTrainedConfig | None:
    """Returns the configuration of a model in `QWEN`; its instruct variant has the same shape."""
    shape = QWEN.get(name.removesuffix("-Instruct"))
    return Qwen2Config(**dict(zip(_FIELDS, shape, strict=True))) if shape else None
