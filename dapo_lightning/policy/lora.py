"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: few weights to train, and the reference policy for free."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from dapo_lightning.policy import Policy, PolicyError, Reference
from dapo_lightning.policy.codec import Codec


@dataclass(frozen=True)
class Lora:
    """W + (alpha / rank) B A, with B A trained and W frozen.

    Args:
        rank: of B A.
        alpha: scale.
        target_modules: which linear layers get adapters; "all-linear" is all but the LM head.
        save: "merged" writes one plain model, "adapter" only what was trained.
    """

    rank: int = 16
    alpha: int = 32
    target_modules: str | Sequence[str] = "all-linear"
    save: str = "merged"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise PolicyError(f"policy.lora.rank={self.rank}: must be at least 1.")
        if self.save not in ("merged", "adapter"):
            raise PolicyError(f"policy.lora.save={self.save}: choose merged or adapter.")

    def attach(self, model: PreTrainedModel, codec: Codec) -> Policy:
        """Puts fresh adapters, which change nothing yet, on the model."""
        import peft  # takes seconds, and most runs do without

        targets = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        settings = peft.LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"
        )
        try:
            adapted = peft.get_peft_model(model, settings)
        except ValueError as error:
            raise PolicyError(f"policy.lora.target_modules={targets}: {error}") from None
        if any(layer.gradient_checkpointing for layer in model.modules() if hasattr(layer, "gradient_checkpointing")):
            adapted.enable_input_require_grads()  # or the frozen embeddings would end the recomputed graph
        return LoraPolicy(adapted.eval(), codec, merged=self.save == "merged")


@dataclass(frozen=True)
class LoraPolicy(Policy):
    """A policy whose adapters alone are trained."""

    merged: bool = True

    def reference(self) -> Reference:
        """The same model with its adapters switched off: the weights that training started from."""

        @contextmanager
        def reference() -> Iterator[PreTrainedModel]:
            with self.model.disable_adapter():
                yield self.model

        return reference

    def save(self, folder: Path, weights: dict[str, Any] | None = None) -> None:
        """One plain model with the adapters merged in, or the adapters alone (`peft.PeftModel.from_pretrained`).
        Never sharded, so its weights are its own."""
        if self.merged:
            copy.deepcopy(self.model).merge_and_unload().save_pretrained(folder)
        else:
            self.model.save_pretrained(folder)
        self.codec.tokenizer.save_pretrained(folder)
