"""Loads the configuration, tokenizer, end tokens and weights of a folder or of an id on the hub."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.distributed import DistributedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from dapo_lightning.policy import PolicyError
from dapo_lightning.policy.merge import add_to_shards, addable_from, merged_from
from dapo_lightning.policy.soundness import fault_of_config, fault_of_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pretrained:
    """A causal LM in a folder or on the hub. For a folder with adapters, this is their model with the adapters merged.

    Args:
        name: a folder (`~` is the home folder), or an id on the hub.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run Python code that comes with the model.
        key: what error messages call the model; None: policy.name=<name>.
        above: the folders with adapters that led to this model.

    Raises:
        PolicyError: from the methods, if something is missing or cannot be loaded.
    """

    name: str
    revision: str | None = None
    trust_remote_code: bool = False
    key: str | None = None
    above: tuple[Path, ...] = ()

    @cached_property
    def folder(self) -> Path | None:
        """The folder; None for an id on the hub."""
        path = Path(self.name).expanduser()
        return path.absolute() if path.is_dir() or self._is_path else None

    @cached_property
    def base(self) -> Pretrained | None:
        """The model to which the adapters in the folder belong; None if the folder contains a whole model."""
        if self.folder is None or not (self.folder / "adapter_config.json").is_file():
            return None
        try:
            saved = json.loads((self.folder / "adapter_config.json").read_text(encoding="utf-8"))
            name, revision = saved["base_model_name_or_path"], saved.get("revision")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise PolicyError(f"{self._key}: its adapter_config.json cannot be read ({error}).") from None
        folders = (*self.above, self.folder)
        if not name or not isinstance(name, str) or Path(name).expanduser().absolute() in folders:
            raise PolicyError(
                f"{self._key}: its adapter_config.json has no base_model_name_or_path that leads to a model: "
                "set it there."
            )
        key = f"{self._key}, whose adapter_config.json has base_model_name_or_path={name}"
        return Pretrained(name, revision, self.trust_remote_code, key, folders)

    def config(self) -> PreTrainedConfig:
        """Returns the configuration of the (text) model."""
        if self.base:
            return self.base.config()
        if self.folder and not (self.folder / "config.json").is_file():
            hint = " `make smollm2` creates it." if self.folder.name == "smollm2" else ""
            if (self.folder / "policy").is_dir():
                hint = f" The policy of that run is {self.name.rstrip('/')}/policy."
            raise PolicyError(f"{self._key}: is no folder with a config.json.{hint}")
        problem = "its config.json cannot be loaded"
        remedy = "Correct that file, or update transformers if the model is newer."
        if not self.folder:
            problem = "there is no such folder, and the hub does not provide it"
            remedy = (
                f"Check the name, or download it (`hf download {self.name} --local-dir DIR`) and set policy.name=DIR."
            )
        with self._explaining(problem, remedy):
            config = self._whole_config()
            if fault := fault_of_config(config):
                raise PolicyError(f"{self._key}: {fault}")
            return config.get_text_config()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Returns the tokenizer. If a folder with adapters has none, this is the tokenizer of their model."""
        if self.base and self.folder and not (self.folder / "tokenizer_config.json").is_file():
            return self.base.tokenizer()
        remedy = "The folder needs tokenizer.json and tokenizer_config.json next to the weights."
        with self._explaining("its tokenizer cannot be loaded", remedy):
            return AutoTokenizer.from_pretrained(self._source, **self._options)

    def end_tokens(self) -> list[int]:
        """Returns the end tokens in the generation config or, if there is none, in the configuration."""
        try:
            found = GenerationConfig.from_pretrained(self._source, revision=self.revision).eos_token_id
        except Exception as error:
            if self.folder and (self.folder / "generation_config.json").is_file():
                reason = str(error).rstrip(".")
                raise PolicyError(f"{self._key}: its generation_config.json cannot be read ({reason}).") from None
            if not isinstance(error, OSError):  # many models have no generation config
                raise
            if self.base:
                return self.base.end_tokens()
            found = getattr(self.config(), "eos_token_id", None)
        tokens = found if isinstance(found, list) else [] if found is None else [found]
        if not all(type(token) is int and token >= 0 for token in tokens):
            raise PolicyError(
                f"{self._key}: eos_token_id={found!r} in its configuration must be the number of a token, or a list of "
                "them. Correct it in generation_config.json and config.json."
            )
        return tokens

    def model(self, dtype: torch.dtype, attention: str | None) -> PreTrainedModel:
        """Returns the model with its weights, into which adapters are merged."""
        if self.base and self.folder:
            with self._explaining("its adapters cannot be merged into their model"):
                return merged_from(self.folder, self.base.model(dtype, attention))
        return self._loaded(dtype=dtype, attn_implementation=attention)

    def empty(self, dtype: torch.dtype, attention: str | None) -> PreTrainedModel:
        """Returns the model on the meta device, that is, without values."""
        if self.base:
            return self.base.empty(dtype, attention)
        with self._explaining("cannot be loaded"), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                self._whole_config(),
                dtype=dtype,
                attn_implementation=attention,
                trust_remote_code=self.trust_remote_code,
            )
        model.config.name_or_path = self._source
        if model.can_generate():
            with suppress(OSError):  # many models have no generation config
                model.generation_config = GenerationConfig.from_pretrained(self._source, revision=self.revision)
        return model

    def can_be_sharded(self) -> bool:
        """Whether the weights can be read straight into shards. Unusual adapters are merged into whole weights."""
        return self.base is None or (self.base.can_be_sharded() and self._adapters(torch.float32) is not None)

    def sharded(self, like: PreTrainedModel) -> PreTrainedModel:
        """Returns the same model sharded over all ranks, each of which has read only its parts of the files."""
        if self.base:
            model = self.base.sharded(like)
            add_to_shards(self._adapters(like.dtype) or {}, model)
            return model
        layers = [name for name, layer in like.named_modules() if isinstance(layer, GradientCheckpointingLayer)]
        plan = {re.sub(r"\.\d+(?=\.|$)", ".*", name): "free_full_weight" for name in layers}
        sharding = DistributedConfig(fsdp_size=dist.get_world_size(), fsdp_plan=plan)
        return self._loaded(dtype=like.dtype, distributed_config=sharding)

    def _adapters(self, dtype: torch.dtype) -> dict[str, Any] | None:
        assert self.base and self.folder
        with self._explaining("its adapters cannot be merged into their model"):
            return addable_from(self.folder, self.base.empty(dtype, None))

    def _loaded(self, **settings: Any) -> PreTrainedModel:
        with self._explaining("cannot be loaded"):
            model, found = AutoModelForCausalLM.from_pretrained(
                self._source, output_loading_info=True, **settings, **self._options
            )
            # Not the configuration of the model, from which transformers removes a quantization that it has undone.
            is_quantized = getattr(self._whole_config(), "quantization_config", None) is not None
            unexpected = found["unexpected_keys"]
            fault = fault_of_weights(model, found["missing_keys"], unexpected, None if is_quantized else self.folder)
        if fault:
            raise PolicyError(f"{self._key}: {fault}")
        if unexpected:
            log.warning("%s: its weights contain %d tensors that %s does not have (for example, %s): they are not used",
                        self._key, len(unexpected), type(model).__name__, min(unexpected))  # fmt: skip
        return model

    def _whole_config(self) -> PreTrainedConfig:
        return AutoConfig.from_pretrained(self._source, **self._options)

    @property
    def _is_path(self) -> bool:
        return self.name.startswith((".", "/", "~")) or self.name.count("/") > 1  # an id is <owner>/<model>

    @property
    def _source(self) -> str:
        return str(self.folder or self.name)

    @property
    def _options(self) -> dict[str, Any]:
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    @property
    def _key(self) -> str:
        return self.key or f"policy.name={self.name}"

    @contextmanager
    def _explaining(self, problem: str, remedy: str = "") -> Iterator[None]:
        try:
            yield
        except PolicyError:
            raise
        except Exception as error:  # transformers, pickle, safetensors and JSON raise errors without a common type
            reason = " ".join(str(error).split()) + (" is unknown or missing" if isinstance(error, KeyError) else "")
            if "trust_remote_code" in reason:
                problem = "contains its own Python code, which would have to be run"
                remedy = "If you trust its source, set policy.trust_remote_code=true."
            elif "Weights only load failed" in reason:
                problem = "its weights are a pickle file that contains more than weights, so loading it could run code"
                remedy = "Use weights in the safetensors format."
            elif "ignore_mismatched_sizes" in reason:
                problem, reason = "the shapes of its weights are not those of its config.json", "see the report above"
            reason = reason.split(". ")[0].rstrip(".") or type(error).__name__
            raise PolicyError(f"{self._key}: {problem} ({reason}). {remedy}".rstrip()) from error
