"""Any Hugging Face causal LM, from the hub or a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dapo_lightning.data import Dataset
from dapo_lightning.forward.probe import share_prompts
from dapo_lightning.policy import Policy, PolicyError
from dapo_lightning.policy.codec import Chat, Codec, all_end_tokens
from dapo_lightning.policy.lora import Lora

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class HubPolicy:
    """A pretrained model with its own tokenizer.

    Args:
        name: an id on the hub, or a folder with config.json, weights and tokenizer.
        revision: branch, tag or commit on the hub.
        dtype: of the weights. Weights that are trained must be float32 (compute in bf16 with
            `trainer.precision=bf16-mixed`): at a learning rate of 1e-6 a step of Adam is far below the spacing of
            bfloat16 numbers and would be lost. With LoRA the frozen weights may be bfloat16.
        attention: "auto": sdpa, with prompts shared by the completions of a group where the model allows it (see
            `dapo_lightning.forward`); or Hugging Face's `attn_implementation`: sdpa, eager, flash_attention_2, ...
        gradient_checkpointing: recompute activations in the backward pass instead of keeping them.
        chat: whether prompts go through the tokenizer's chat template.
        system_prompt, template_kwargs: see `Chat`.
        lora: train low-rank adapters instead of the weights.

    Raises:
        PolicyError: for options without meaning, and for a model or tokenizer that cannot be had.
    """

    name: str
    revision: str | None = None
    dtype: str = "float32"
    attention: str = "auto"
    gradient_checkpointing: bool = False
    chat: bool = True
    system_prompt: str | None = None
    template_kwargs: Mapping[str, Any] | None = None
    lora: Lora | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise PolicyError(f"policy.dtype={self.dtype}: choose one of {', '.join(DTYPES)}.")
        if self.dtype != "float32" and self.lora is None:
            raise PolicyError(
                f"policy.dtype={self.dtype}: weights that are trained must be float32, or most updates would be "
                "rounded away. Set policy.dtype=float32 with trainer.precision=bf16-mixed, or use policy=lora."
            )
        if not self.chat and (self.system_prompt is not None or self.template_kwargs):
            raise PolicyError(
                "policy.system_prompt and policy.template_kwargs belong to the chat template: set policy.chat=true, "
                "or leave them out."
            )

    def codec(self) -> Codec:
        """Tokenizer, chat template, end tokens and length limit: everything but the weights."""
        config, tokenizer = self.config(), self._tokenizer()
        if self.chat and tokenizer.chat_template is None:
            raise PolicyError(
                f"policy.name={self.name}: its tokenizer has no chat template. Set policy.chat=false to give it "
                "prompts as plain text."
            )
        try:
            configured = GenerationConfig.from_pretrained(self.name, revision=self.revision).eos_token_id
        except OSError:  # many models have none
            configured = getattr(config, "eos_token_id", None)
        try:
            end_tokens = all_end_tokens(tokenizer, configured)
        except ValueError as error:
            raise PolicyError(f"policy.name={self.name}: {error}") from None
        chat = Chat(self.system_prompt, dict(self.template_kwargs or {})) if self.chat else None
        return Codec(tokenizer, end_tokens, getattr(config, "max_position_embeddings", None), chat)

    def load(self, codec: Codec, dataset: Dataset, cache: Path) -> Policy:
        """The model in eval mode, with adapters if asked for."""
        model = self._model().eval()
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self.attention == "auto":
            share_prompts(model)
        return self.lora.attach(model, codec) if self.lora else Policy(model, codec)

    def config(self) -> PreTrainedConfig:
        """Its shape."""
        if self.name.startswith((".", "/", "~")) and not (Path(self.name) / "config.json").is_file():
            hint = " `make smollm2` makes it." if Path(self.name).name == "smollm2" else ""
            raise PolicyError(f"policy.name={self.name}: is no folder with a config.json.{hint}")
        try:
            return AutoConfig.from_pretrained(self.name, revision=self.revision).get_text_config()
        except (OSError, ValueError) as error:
            raise PolicyError(
                f"policy.name={self.name}: is neither a folder with a config.json nor to be had from the hub "
                f"({_first_sentence(error)}). Check the name, or download it where there is a network (`hf download "
                f"{self.name} --local-dir DIR`) and set policy.name=DIR."
            ) from None

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        try:
            return AutoTokenizer.from_pretrained(self.name, revision=self.revision)
        except (OSError, ValueError) as error:
            raise PolicyError(
                f"policy.name={self.name}: its tokenizer cannot be loaded ({_first_sentence(error)}). "
                "The folder needs tokenizer.json and tokenizer_config.json beside the weights."
            ) from None

    def _model(self) -> PreTrainedModel:
        attention = "sdpa" if self.attention == "auto" else self.attention
        try:
            return AutoModelForCausalLM.from_pretrained(
                self.name, revision=self.revision, dtype=DTYPES[self.dtype], attn_implementation=attention
            )
        except (OSError, ValueError, ImportError) as error:
            raise PolicyError(f"policy.name={self.name}: cannot be loaded ({_first_sentence(error)}).") from None


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")
