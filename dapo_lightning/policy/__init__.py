"""The policy: a Hugging Face causal LM, the codec that translates its texts, and the sources of both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from dapo_lightning.data import Dataset
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.weights import plain_weights
from dapo_lightning.forward.head import try_head
from dapo_lightning.policy.codec import Codec
from dapo_lightning.policy.export import export

Reference = Callable[[], AbstractContextManager[PreTrainedModel]]


class PolicyError(ValueError):
    """A policy cannot be used as configured; the message contains the key and the remedy."""


@dataclass(frozen=True)
class Policy:
    """A model with its codec.

    The model is always in eval mode, because with dropout, the ratio would differ from 1 before any weight has changed.

    Args:
        recomputes: whether activations are recomputed in the backward pass instead of being kept.
        shards: if the model is on the meta device, that is, without values: returns a sharded model with them.
    """

    model: PreTrainedModel
    codec: Codec
    recomputes: bool = field(default=False, kw_only=True)
    shards: Callable[[], PreTrainedModel] | None = field(default=None, kw_only=True)

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
        """Within the context, layers keep only their inputs, and the backward pass computes the rest again, if the
        policy `recomputes`. (Hugging Face's own gradient checkpointing requires training mode, which would turn dropout
        on.)"""
        layers = [layer for layer in self.model.modules() if isinstance(layer, GradientCheckpointingLayer)]
        with ExitStack() as undo:
            for layer in layers if self.recomputes else ():
                layer.__dict__["forward"] = partial(
                    checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
                )
                undo.callback(layer.__dict__.pop, "forward")
            yield

    def save(self, folder: Path) -> None:
        """Writes a folder that transformers can load. If the model is sharded, all ranks must call this together."""
        export(self.model, plain_weights(self.model), folder)
        if Ranks.current().rank == 0:
            self.codec.tokenizer.save_pretrained(folder)


class PolicySource(Protocol):
    """Loads a policy. The codec comes first, so that prompts can be checked before any weights are loaded.

    `dtype`: the dtype of the weights, including frozen ones.
    """

    @property
    def dtype(self) -> str: ...
    def codec(self) -> Codec: ...
    def load(
        self, codec: Codec, dataset: Dataset, cache: Path, reach: int | None = None, sharded: bool = False
    ) -> Policy:
        """Returns the policy. A warm start uses worked examples from the dataset and stores its result under `cache`.

        Args:
            reach: the maximum number of tokens of a prompt and its completion together; None if it is not known.
            sharded: the policy will be sharded, so it may be returned without values (see `Policy.shards`).
        """
        ...
