"""Low-rank adapters (LoRA, arXiv 2106.09685) with peft: few trained weights, and a reference policy without a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.sharding import full_tensor
from dapo_lightning.distributed.weights import plain_weights
from dapo_lightning.policy import Policy, PolicyError, Reference
from dapo_lightning.policy.codec import Codec
from dapo_lightning.policy.export import export, save_generation_config
from dapo_lightning.policy.merge import check_peft, on_the_cpu, untied_if_adapted

_README = """---
base_model: {base}
library_name: peft
---
Adapters for {base}, trained with [DAPO](https://arxiv.org/abs/2503.14476):

    model = AutoModelForCausalLM.from_pretrained("{base}")
    model = peft.PeftModel.from_pretrained(model, "<this folder>")
"""


@dataclass(frozen=True)
class Lora:
    """W + (alpha / rank) B A, with B A trained and W frozen.

    Args:
        rank: rank of B A.
        alpha: numerator of the scale.
        target_modules: the linear layers that get adapters; "all-linear" means all except the LM head.
        save: "merged" saves one plain model, "adapter" only the trained weights.

    Raises:
        PolicyError: if peft is not installed, and for values that are not allowed.
    """

    rank: int = 16
    alpha: int = 32
    target_modules: str | Sequence[str] = "all-linear"
    save: str = "merged"

    def __post_init__(self) -> None:
        check_peft("policy=lora")
        if self.rank < 1:
            raise PolicyError(f"policy.lora.rank={self.rank}: must be at least 1.")
        if self.save not in ("merged", "adapter"):
            raise PolicyError(f"policy.lora.save={self.save}: choose merged or adapter.")

    def attach(
        self, model: PreTrainedModel, codec: Codec, shards: Callable[[], PreTrainedModel] | None = None
    ) -> Policy:
        """Adds new adapters to the model; they do not change its output yet. They have values even if the model has
        none (see `Policy.shards`)."""
        import peft  # slow to import

        targets = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        settings = peft.LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"
        )
        try:
            with on_the_cpu(model):
                adapted = peft.get_peft_model(model, settings)
        except ValueError as error:
            raise PolicyError(f"policy.lora.target_modules={targets}: {error}") from None
        return LoraPolicy(adapted.eval(), codec, merged=self.save == "merged", shards=shards)


@dataclass(frozen=True)
class LoraPolicy(Policy):
    """A policy that trains only its adapters."""

    merged: bool = True

    def reference(self) -> Reference:
        """Returns the same model with its adapters switched off, that is, with the weights before training."""

        @contextmanager
        def reference() -> Iterator[PreTrainedModel]:
            with self.model.disable_adapter():
                yield self.model

        return reference

    def save(self, folder: Path) -> None:
        """Saves one plain model with the adapters merged in, or the adapters only (for `PeftModel.from_pretrained`)."""
        base: Any = self.model.get_base_model()
        if self.merged:
            with untied_if_adapted(base):
                export(base, plain_weights(self.model), folder)
        adapters = {} if self.merged else {
            name: full_tensor(weight) for name, weight in self.model.state_dict().items() if ".lora_" in name
        }  # fmt: skip
        if Ranks.current().rank != 0:
            return
        if not self.merged:
            self.model.save_pretrained(folder, state_dict=adapters)
            if base.can_generate():
                save_generation_config(base, folder)
            (folder / "README.md").write_text(_README.format(base=base.name_or_path), encoding="utf-8")
        self.codec.tokenizer.save_pretrained(folder)
