"""The policy: a Hugging Face causal LM, the codec of its texts, and where both come from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from dapo_lightning.data import Dataset
from dapo_lightning.policy.codec import Codec

Reference = Callable[[], AbstractContextManager[PreTrainedModel]]


class PolicyError(ValueError):
    """A policy cannot be had as asked for; the message names the key and the remedy."""


@dataclass(frozen=True)
class Policy:
    """Model and codec, as one.

    The model is always in eval mode: dropout would make the ratio differ from 1 where nothing has changed.
    """

    model: PreTrainedModel
    codec: Codec

    def reference(self) -> Reference:
        """The policy as it is now, frozen: call for a context in which it can be run."""
        frozen = copy.deepcopy(self.model).eval().requires_grad_(False)

        def reference() -> AbstractContextManager[PreTrainedModel]:
            return nullcontext(frozen.to(self.model.device))

        return reference

    @contextmanager
    def recomputing_activations(self) -> Iterator[None]:
        """Gradient checkpointing, if the model was loaded with it, for the block; outside of it the cache works.

        Hugging Face asks for layers in training mode. They are, but not while they compute: dropout stays off.
        """
        layers = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        layers = [layer for layer in layers if layer.gradient_checkpointing]
        recompute = [layer._gradient_checkpointing_func for layer in layers]
        try:
            for layer in layers:
                layer._gradient_checkpointing_func = _in_eval_mode(layer, layer._gradient_checkpointing_func)
                layer.training = True
            yield
        finally:
            for layer, function in zip(layers, recompute, strict=True):
                layer._gradient_checkpointing_func = function
                layer.training = False

    def save(self, folder: Path, weights: dict[str, Any] | None = None) -> None:
        """Writes what `AutoModelForCausalLM` and `AutoTokenizer` load; `weights` are the model's, if it is sharded."""
        self.model.save_pretrained(folder, state_dict=weights)
        self.codec.tokenizer.save_pretrained(folder)


def _in_eval_mode(layer: nn.Module, recompute: Callable[..., Any]) -> Callable[..., Any]:
    """The checkpoint function of a layer, for whose forward pass, first or again, the layer is in eval mode."""

    def recompute_in_eval_mode(forward: Callable[..., Any], *args: Any) -> Any:
        def forward_in_eval_mode(*args: Any) -> Any:
            before, layer.training = layer.training, False
            try:
                return forward(*args)
            finally:
                layer.training = before

        return recompute(forward_in_eval_mode, *args)

    return recompute_in_eval_mode


class PolicySource(Protocol):
    """Where a policy comes from. The codec comes first: prompts can be checked before any weights are loaded.

    `dtype`: of the weights, frozen ones included.
    """

    @property
    def dtype(self) -> str: ...
    def codec(self) -> Codec: ...
    def load(self, codec: Codec, dataset: Dataset, cache: Path) -> Policy:
        """The policy; a dataset with worked examples may serve a warm start, which is kept under `cache`."""
        ...
