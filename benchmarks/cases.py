"""What is timed: the same model, prompts and lengths for ours and for TRL."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

SMOLLM2 = Path("outputs/smollm2")


@dataclass(frozen=True)
class Case:
    """One DAPO step: `num_prompts` x `num_completions` completions, one gradient step.

    Args:
        model: "smollm2", or a random model of four layers with a hidden size of 256 and a vocabulary of 64 characters:
            "tiny" (a Llama), "qwen3" (one key head for two query heads, queries and keys normalised), "gpt2" (biases,
            Conv1D layers), or "wide" (the Llama with a vocabulary of 32,000).
        max_new_tokens: of every completion, or at most, if `natural` lets the end token end it.
        prompt_repeats: how often the question is repeated, for long prompts.
        recompute: activations, in the backward pass (gradient checkpointing), on both sides.
        micro_batch_rows: completions per forward pass of TRL's update: the fastest of those tried.
        micro_batch_tokens: the same for ours, in tokens.
    """

    model: str
    num_prompts: int
    num_completions: int
    max_new_tokens: int
    natural: bool = False
    prompt_repeats: int = 1
    recompute: bool = False
    micro_batch_rows: int = 32
    micro_batch_tokens: int = 4096

    def prompts(self, count: int) -> list[str]:
        """Sums of two numbers, in words: all of the same length in tokens."""
        rng = random.Random(0)
        pairs = [(rng.randint(10, 99), rng.randint(10, 99)) for _ in range(count)]
        if self.model == "smollm2":
            return [f"What is {a} + {b}? Answer with just the number." for a, b in pairs]
        return [
            "".join([f"compute the sum of {a} and {b}, then stop: {a}+{b}="] * self.prompt_repeats) for a, b in pairs
        ]

    def policy_folder(self) -> Path:
        """Where the model is; a random one is made."""
        return SMOLLM2 if self.model == "smollm2" else random_folder(self.model)


CASES = {
    "full-length small": Case("tiny", 4, 8, 64),
    "natural-length large": Case("tiny", 16, 16, 128, natural=True, micro_batch_tokens=2048),
    "long prompt, large group": Case("tiny", 2, 32, 64, prompt_repeats=8),
    "many small groups": Case("tiny", 64, 4, 32, micro_batch_tokens=2048),
    "long prompt, one group": Case("tiny", 1, 64, 64, prompt_repeats=11),
    "natural length, up to 256": Case("tiny", 8, 16, 256, natural=True, micro_batch_tokens=2048),
    "qwen3": Case("qwen3", 4, 8, 64),
    "gpt2": Case("gpt2", 4, 8, 64),
    "vocabulary of 32,000": Case("wide", 4, 8, 64),
    "smollm2": Case("smollm2", 4, 8, 64, micro_batch_rows=8, micro_batch_tokens=640),
    "smollm2, lean": Case("smollm2", 4, 8, 64, recompute=True, micro_batch_rows=8, micro_batch_tokens=640),
}


def random_folder(model: str) -> Path:
    """Random weights and a tokenizer of 64 characters, saved as any Hugging Face model."""
    folder = Path("outputs/benchmarks") / model
    if not (folder / "config.json").exists():
        characters = "0123456789abcdefghijklmnopqrstuvwxyz +-*/=()<>.,:;?!'\"#%_[]\n"
        symbols = ["<pad>", "<eos>", "<unk>", *characters][:64]
        backend = tokenizers.Tokenizer(
            tokenizers.models.WordLevel({symbol: i for i, symbol in enumerate(symbols)}, unk_token="<unk>")
        )
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
        backend.decoder = tokenizers.decoders.Fuse()
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(_config(model)).save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
        ).save_pretrained(folder)
    return folder


def _config(model: str) -> PretrainedConfig:
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "tie_word_embeddings": True}
    if model == "gpt2":
        return GPT2Config(vocab_size=64, n_embd=256, n_layer=4, n_head=4, n_positions=1024, **tokens)
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4}
    sizes |= {"vocab_size": 32_000 if model == "wide" else 64, "max_position_embeddings": 1024}
    if model == "qwen3":
        return Qwen3Config(num_key_value_heads=2, head_dim=64, **sizes, **tokens)
    return LlamaConfig(num_key_value_heads=4, **sizes, **tokens)
