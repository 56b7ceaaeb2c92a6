"""The policy: a Hugging Face causal LM, the codec of its texts, and where both come from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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

        The layers alone are put into training mode, which Hugging Face asks for: dropout inside them stays off.
        """
        layers = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        layers = [layer for layer in layers if layer.gradient_checkpointing]
        try:
            for layer in layers:
                layer.training = True
            yield
        finally:
            for layer in layers:
                layer.training = False

    def save(self, folder: Path) -> None:
        """Writes what `AutoModelForCausalLM` and `AutoTokenizer` load."""
        self.model.save_pretrained(folder)
        self.codec.tokenizer.save_pretrained(folder)


class PolicySource(Protocol):
    """Where a policy comes from. The codec comes first: prompts can be checked before any weights are loaded."""

    def codec(self) -> Codec: ...
    def load(self, codec: Codec, dataset: Dataset, cache: Path) -> Policy:
        """The policy; a dataset with worked examples may serve a warm start, which is kept under `cache`."""
        ...
