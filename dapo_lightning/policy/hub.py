"""Any Hugging Face causal LM, from the hub or a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from dapo_lightning.forward.probe import try_shared_prompts
from dapo_lightning.policy import Policy, PolicyError
from dapo_lightning.policy.codec import Chat, Codec, all_end_tokens
from dapo_lightning.policy.lora import Lora

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class HubPolicy:
    """A pretrained model with its own tokenizer.

    Args:
        name: a folder with config.json, weights and tokenizer, or else an id on the hub.
        revision: branch, tag or commit on the hub.
        dtype: that of the weights. Trained weights must be float32 (compute in bf16 with
            `trainer.precision=bf16-mixed`): at a learning rate of 1e-6, an update by Adam is far below the spacing of
            bfloat16 numbers and would be lost. With LoRA, the frozen weights may be bfloat16.
        attention: "auto" is sdpa, with shared prompts where the model allows them (see `dapo_lightning.forward`); any
            other value is Hugging Face's `attn_implementation`: sdpa, eager, flash_attention_2, ...
        gradient_checkpointing: recompute activations in the backward pass instead of keeping them.
        chat: pass prompts through the tokenizer's chat template.
        system_prompt, template_kwargs: see `Chat`.
        lora: train low-rank adapters instead of the weights.

    Raises:
        PolicyError: for options that contradict each other, and if the model or its tokenizer is unavailable.
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
                f"policy.dtype={self.dtype}: trained weights must be float32, because most updates would be lost to "
                "rounding. Set policy.dtype=float32 with trainer.precision=bf16-mixed, or use policy=lora."
            )
        if not self.chat and (self.system_prompt is not None or self.template_kwargs):
            raise PolicyError(
                "policy.system_prompt and policy.template_kwargs are for the chat template: set policy.chat=true, "
                "or remove them."
            )

    def codec(self) -> Codec:
        """Tokenizer, chat template, end tokens and length limit: everything except the weights."""
        config, tokenizer = self.config(), self._tokenizer()
        if self.chat and tokenizer.chat_template is None:
            raise PolicyError(
                f"policy.name={self.name}: its tokenizer has no chat template. For prompts as plain text, set "
                "policy.chat=false."
            )
        try:
            configured = GenerationConfig.from_pretrained(self.name, revision=self.revision).eos_token_id
        except OSError:  # many models have no generation config
            configured = getattr(config, "eos_token_id", None)
        try:
            end_tokens = all_end_tokens(tokenizer, configured)
        except ValueError as error:
            raise PolicyError(f"policy.name={self.name}: {error}") from None
        chat = Chat(self.system_prompt, dict(self.template_kwargs or {})) if self.chat else None
        return Codec(tokenizer, end_tokens, getattr(config, "max_position_embeddings", None), chat)

    def load(self, codec: Codec, dataset: Dataset, cache: Path) -> Policy:
        """The model in eval mode, with adapters if `lora` is set."""
        model = self._model().eval()
        if self.gradient_checkpointing:  # under its new name or, in older releases, its old one
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        if self.attention == "auto":
            try_shared_prompts(model)
        return self.lora.attach(model, codec) if self.lora else Policy(model, codec)

    def config(self) -> PreTrainedConfig:
        """The configuration of the model."""
        folder = Path(self.name)
        if (folder.is_dir() or self.name.startswith((".", "/", "~"))) and not (folder / "config.json").is_file():
            hint = " `make smollm2` creates it." if folder.name == "smollm2" else ""
            if (folder / "adapter_config.json").is_file():
                hint = " It holds adapters without their model: a run with policy.lora.save=merged saves both."
            raise PolicyError(f"policy.name={self.name}: is no folder with a config.json.{hint}")
        problem, remedy = "its config.json cannot be loaded", ""
        if not folder.is_dir():
            problem = "there is no such folder, and the hub does not provide it"
            remedy = (
                f"Check the name, or download it (`hf download {self.name} --local-dir DIR`) and set policy.name=DIR."
            )
        with self._explaining(problem, remedy):
            return AutoConfig.from_pretrained(self.name, revision=self.revision).get_text_config()

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        remedy = "The folder needs tokenizer.json and tokenizer_config.json beside the weights."
        with self._explaining("its tokenizer cannot be loaded", remedy):
            return AutoTokenizer.from_pretrained(self.name, revision=self.revision)

    def _model(self) -> PreTrainedModel:
        attention = "sdpa" if self.attention == "auto" else self.attention
        with self._explaining("cannot be loaded"):
            return AutoModelForCausalLM.from_pretrained(
                self.name, revision=self.revision, dtype=DTYPES[self.dtype], attn_implementation=attention
            )

    @contextmanager
    def _explaining(self, problem: str, remedy: str = "") -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
            raise PolicyError(f"policy.name={self.name}: {problem} ({reason}). {remedy}".rstrip()) from None
