"""Sizes of small transformers of any architecture, and rows for them that share prompts."""

import torch

SIZES = {
    "vocab_size": 90, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.5,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PROMPTS = [(5, 6, 7, 8), (5, 6, 7, 8), (9, 10), (5, 6, 7, 8), (9, 10)]
COMPLETIONS = [torch.arange(11, 11 + length) for length in (7, 1, 12, 5, 6)]
