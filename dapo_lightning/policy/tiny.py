"""A Llama small enough to learn on two CPU cores."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tokenizers
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from dapo_lightning.data import Dataset
from dapo_lightning.forward.probe import try_shared_prompts
from dapo_lightning.policy import Policy, PolicyError
from dapo_lightning.policy.codec import Codec
from dapo_lightning.policy.pretrained import Pretrained

WarmStartFunction = Callable[[Policy, Dataset, str, Path], None]


@dataclass(frozen=True)
class TinyPolicy:
    """A Llama of a few million parameters that reads numbers and characters. It learns on two CPU cores, and the rest
    of the code treats it like a 32B model.

    Args:
        warm_start: a supervised warm start that teaches it to answer at all, the folder of a policy from which to copy
            the weights, or None for random weights.
    """

    dtype: ClassVar[str] = "float32"
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    initializer_range: float
    seed: int
    warm_start: WarmStartFunction | str | None

    def codec(self) -> Codec:
        """The tiny tokenizer; prompts are plain text."""
        tokenizer = tiny_tokenizer()
        return Codec(tokenizer, (tokenizer.eos_token_id,), self.max_positions)

    def load(
        self, codec: Codec, dataset: Dataset, cache: Path, reach: int | None = None, sharded: bool = False
    ) -> Policy:
        """Builds the policy and starts it warm; the result of a warm start is stored under `cache`."""
        policy = Policy(self._model(), codec)
        if isinstance(self.warm_start, str):
            _copy_weights(self.warm_start, policy.model)
        elif self.warm_start is not None:
            self.warm_start(policy, dataset, repr(self), cache)
        policy.model.eval()
        try_shared_prompts(policy.model)
        return policy

    def config(self) -> PreTrainedConfig:
        """The configuration of the model."""
        tokenizer = tiny_tokenizer()
        return LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_heads,
            max_position_embeddings=self.max_positions,
            initializer_range=self.initializer_range,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    def _model(self) -> PreTrainedModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return LlamaForCausalLM(self.config())


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per number below 100, per signed digit, and per printable ASCII character; <pad>, <eos>, <unk>."""
    numbers = [str(number) for number in range(100)] + [f"0{digit}" for digit in range(10)]
    signed = [sign + digit for sign in "+-" for digit in string.digits]
    characters = [character for character in string.printable[:95] if not character.isdigit()]
    symbols = ["<pad>", "<eos>", "<unk>", *numbers, *signed, *characters, "\n"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({symbol: index for index, symbol in enumerate(symbols)}, unk_token="<unk>")
    )
    pieces = tokenizers.Regex(r"[+-]\d|\d{1,2}|[\s\S]")
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(pieces, "isolated")
    backend.decoder = tokenizers.decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def _copy_weights(folder: str, model: PreTrainedModel) -> None:
    key = f"policy.warm_start={folder}"
    source = Pretrained(folder, key=key)
    if source.folder is None or not (source.folder / "config.json").is_file():
        raise PolicyError(
            f"{key}: there is no config.json in it. Set the policy/ folder of a finished run, or null for random "
            "weights."
        )
    try:
        model.load_state_dict(source.model(torch.float32, "sdpa").state_dict())
    except RuntimeError as error:
        raise PolicyError(
            f"{key}: its weights do not fit the configured policy ({error}). Use the same policy.* sizes for both."
        ) from None
