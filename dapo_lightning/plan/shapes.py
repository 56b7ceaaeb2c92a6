"""Shapes of the Qwen2.5 models, so that a plan needs no network: their published `config.json`, as far as it matters.

Source: the model cards Qwen/Qwen2.5-{0.5B,7B,32B}, which also give the parameters that a test compares: 0.49, 7.61 and
32.5 billion (the last by their count; their weights hold 32,763,876,352).
"""

from __future__ import annotations

from transformers import PreTrainedConfig, Qwen2Config

QWEN: dict[str, dict[str, int | bool]] = {
    "Qwen/Qwen2.5-0.5B": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 32768,
    },
    "Qwen/Qwen2.5-7B": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False, "max_position_embeddings": 131072,
    },
    "Qwen/Qwen2.5-32B": {
        "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
        "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False, "max_position_embeddings": 131072,
    },
}  # fmt: skip


def known_config(name: str) -> PreTrainedConfig | None:
    """The configuration of a model whose shape is known here; its instruct variant has the same."""
    facts = QWEN.get(name.removesuffix("-Instruct"))
    return Qwen2Config(**facts) if facts else None
