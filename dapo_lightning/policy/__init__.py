"""The policy: a Hugging Face causal LM, the codec that translates its texts, and the sources of both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from dapo_lightning.data import Dataset
from dapo_lightning.forward.head import try_head
from dapo_lightning.policy.codec import Codec

Reference = Callable[[], AbstractContextManager[PreTrainedModel]]


class PolicyError(ValueError):
    """A policy cannot be used as configured; the message contains the key and the remedy."""


@dataclass(frozen=True)
class Policy:
    """A model with its codec.

    The model is always in eval mode, because with dropout, the ratio would differ from 1 before any weight has changed.
    """

    model: PreTrainedModel
    codec: Codec

    def __post_init__(self) -> None:
        try_head(self.model)

    def reference(self) -> Reference:
        """Returns a function whose calls give a context with a frozen copy of the current model."""
        frozen = copy.deepcopy(self.model).eval().requires_grad_(False)

        def reference() -> AbstractContextManager[PreTrainedModel]:
            return nullcontext(frozen.to(self.model.device))

        return reference

    @contextmanager
    def recomputing_activations(self) -> Iterator[None]:
        """Turns gradient checkpointing on within the context, if the model was loaded with it.

        Hugging Face checkpoints only layers in training mode. The layers are therefore set to training mode, but their
        forward passes run in eval mode, so that dropout stays off. This uses the private name of the function that
        each layer calls for checkpointing, because there is no public one. If transformers renames it,
        `policy.gradient_checkpointing=true` fails in the first gradient step.
        """
        with ExitStack() as undo:
            for layer in self.model.modules():
                if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
                    recompute = layer._gradient_checkpointing_func
                    undo.callback(setattr, layer, "_gradient_checkpointing_func", recompute)
                    undo.callback(setattr, layer, "training", False)
                    layer._gradient_checkpointing_func = _in_eval_mode(layer, recompute)
                    layer.training = True
            yield

    def save(self, folder: Path, weights: dict[str, Any] | None = None) -> None:
        """Writes a folder that transformers can load; `weights` are the gathered weights of a sharded model."""
        self.model.save_pretrained(folder, state_dict=weights)
        self.codec.tokenizer.save_pretrained(folder)


def _in_eval_mode(layer: nn.Module, recompute: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the checkpoint function of a layer so that each forward pass, first or repeated, runs in eval mode."""

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
    """Loads a policy. The codec comes first, so that prompts can be checked before any weights are loaded.

    `dtype`: the dtype of the weights, including frozen ones.
    """

    @property
    def dtype(self) -> str: ...
    def codec(self) -> Codec: ...
    def load(self, codec: Codec, dataset: Dataset, cache: Path, reach: int | None = None) -> Policy:
        """Returns the policy. A warm start uses worked examples from the dataset and stores its result under `cache`.

        Args:
            reach: the maximum number of tokens of a prompt and its completion together; None if it is not known.
        """
        ...
