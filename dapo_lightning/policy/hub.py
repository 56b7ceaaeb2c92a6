"""Any Hugging Face causal LM, from the hub or a folder."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from dapo_lightning.data import Dataset
from dapo_lightning.forward.layout import attention_of
from dapo_lightning.forward.probe import short_logps
from dapo_lightning.policy import Policy, PolicyError
from dapo_lightning.policy.chat import Chat, reserved_arguments
from dapo_lightning.policy.codec import Codec, all_end_tokens
from dapo_lightning.policy.limits import changing_positions, max_positions
from dapo_lightning.policy.lora import Lora
from dapo_lightning.policy.miniature import miniature
from dapo_lightning.policy.notices import notices
from dapo_lightning.policy.pretrained import Pretrained
from dapo_lightning.policy.trial import Trial, choose_ways

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class HubPolicy:
    """A pretrained model with its own tokenizer.

    Args:
        name: a folder with config.json, weights and tokenizer, a folder with adapters, or an id on the hub.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run Python code that comes with the model.
        dtype: dtype of the weights. Trained weights must be float32 (compute in bf16 with
            `trainer.precision=bf16-mixed`): at a learning rate of 1e-6, an update by Adam is far below the spacing of
            bfloat16 numbers and would be lost. With LoRA, the frozen weights may be bfloat16.
        attention: "auto" means sdpa (or eager for models that do not support sdpa), with shared prompts if the model
            allows them (see `dapo_lightning.policy.trial`); any other value is Hugging Face's `attn_implementation`:
            sdpa, eager, flash_attention_2, ...
        chat: pass prompts through the tokenizer's chat template.
        system_prompt, template_kwargs: see `Chat`.
        date: the date that chat templates see as today's date, such as 2026-01-31; None: the real one.
        end_tokens: names of tokens that end a completion, besides those of the tokenizer and the generation config.
        keep_special_tokens: see `Codec`.
        lora: train low-rank adapters instead of the weights.

    Raises:
        PolicyError: for options that contradict each other, and if the model or its tokenizer is unavailable.
    """

    name: str
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: str = "float32"
    attention: str = "auto"
    chat: bool = True
    system_prompt: str | None = None
    template_kwargs: Mapping[str, Any] | None = None
    date: str | None = None
    end_tokens: Sequence[str] | None = None
    keep_special_tokens: bool = False
    lora: Lora | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise PolicyError(f"policy.dtype={self.dtype}: choose one of {', '.join(DTYPES)}.")
        if self.dtype != "float32" and self.lora is None:
            raise PolicyError(
                f"policy.dtype={self.dtype}: trained weights must be float32, because most updates would be lost to "
                "rounding. Set policy.dtype=float32 with trainer.precision=bf16-mixed, or use policy=lora."
            )
        if not self.chat and (self.system_prompt is not None or self.template_kwargs or self.date):
            raise PolicyError(
                "policy.system_prompt, policy.template_kwargs and policy.date are for the chat template: set "
                "policy.chat=true, or remove them."
            )
        if reserved := sorted(reserved_arguments() & {*(self.template_kwargs or {})}):
            raise PolicyError(f"policy.template_kwargs: {reserved[0]} is not an argument of the template: remove it.")
        if self._pretrained.base and self.lora and self.lora.save == "adapter":
            raise PolicyError(
                f"policy.name={self.name}: is a folder with adapters, which are merged into their model. New adapters "
                "would belong to this merged model, which is not saved. Use policy.lora.save=merged."
            )
        self._today()

    def codec(self) -> Codec:
        """Returns the tokenizer, chat template, end tokens and length limit, that is, everything except the weights."""
        config, tokenizer = self.config(), self._pretrained.tokenizer()
        if self.chat and tokenizer.chat_template is None:
            raise PolicyError(
                f"policy.name={self.name}: its tokenizer has no chat template. For prompts as plain text, set "
                "policy.chat=false."
            )
        configured = self._pretrained.end_tokens()
        try:
            end_tokens = all_end_tokens(tokenizer, configured, self.end_tokens or ())
        except ValueError as error:
            raise PolicyError(f"policy.name={self.name}: {error}") from None
        chat = Chat(self.system_prompt, dict(self.template_kwargs or {}), self._today()) if self.chat else None
        if chat and (problem := chat.problem(tokenizer)):
            raise PolicyError(f"policy.name={self.name}: its chat template {problem}")
        codec = Codec(
            tokenizer,
            end_tokens,
            max_positions=max_positions(config),
            chat=chat,
            num_embeddings=getattr(config, "vocab_size", None),
            keep_special_tokens=self.keep_special_tokens,
        )
        for notice in notices(codec):
            log.warning("policy.name=%s: %s.", self.name, notice)
        return codec

    def load(
        self, codec: Codec, dataset: Dataset, cache: Path, reach: int | None = None, sharded: bool = False
    ) -> Policy:
        """Returns the model in eval mode, with adapters if `lora` is set."""
        if changing := changing_positions(self.config(), reach):
            raise PolicyError(
                f"policy.name={self.name}: its positions (rope_type={changing[0]}) change for all tokens of a row when "
                f"the row exceeds {changing[1]} tokens, so log-probs would differ between sampling and training. Lower "
                f"max_prompt_tokens and max_new_tokens, so that together they are at most {changing[1]}."
            )
        attention = None if self.attention == "auto" else self.attention  # None: sdpa if there is one, else eager
        sharded = sharded and self._pretrained.can_be_sharded()
        model = (self._pretrained.empty if sharded else self._pretrained.model)(DTYPES[self.dtype], attention).eval()
        if sharded and Trial.on_miniature(model, reach) is None:  # the model itself has to be tried
            sharded, model = False, self._pretrained.model(DTYPES[self.dtype], attention).eval()
        if model.can_generate():  # `generate` reads the end tokens from there
            model.generation_config.eos_token_id = list(codec.end_tokens)
        if self.attention == "auto" and attention_of(model) == "eager":
            log.info("transformers has no sdpa for %s, so policy.attention=eager is used, which needs more memory",
                     type(model).__name__)  # fmt: skip
        choose_ways(model, reach, may_share=self.attention == "auto")
        shards = partial(self._pretrained.sharded, model) if sharded else None
        if self.lora is None:
            return Policy(model, codec, shards=shards)
        policy = self.lora.attach(model, codec, shards)
        try:
            with torch.random.fork_rng(devices=[]):
                short_logps(self.lora.attach(miniature(model, reach), codec).model if sharded else policy.model)
        except Exception as error:  # for example, adapters on a router of experts
            raise PolicyError(
                f"policy.lora.target_modules={self.lora.target_modules}: {type(model).__name__} cannot run with "
                f"adapters on all of these layers ({error}). List the layers, for example "
                "policy.lora.target_modules=[q_proj,k_proj,v_proj,o_proj]."
            ) from None
        return policy

    def config(self) -> PreTrainedConfig:
        """Returns the configuration of the model."""
        return self._pretrained.config()

    @cached_property
    def _pretrained(self) -> Pretrained:
        return Pretrained(self.name, self.revision, self.trust_remote_code)

    def _today(self) -> datetime.date | None:
        try:
            return None if self.date is None else datetime.date.fromisoformat(self.date)
        except ValueError:
            raise PolicyError(f"policy.date={self.date}: must be a date such as 2026-01-31.") from None
