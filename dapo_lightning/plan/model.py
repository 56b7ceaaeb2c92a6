"""Sizes of a causal LM, counted on the meta device: no weights, whatever the size."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

Shapes = tuple[tuple[int, int, int], ...]
"""(first dimension, numbers, how many such weights)."""


@dataclass(frozen=True)
class ModelSizes:
    """Numbers of weights, each counted once, also where embeddings and LM head are the same.

    Args:
        shapes: of all weights.
        layer_shapes: of the weights of one layer, the largest.
        body: weights of all linear layers but the LM head: what each token is multiplied with.
        head: weights of the LM head, which is the embeddings' where `is_tied`.
        linear_ends: inputs plus outputs, summed over the linear layers of `body`: an adapter of rank r has r times so
            many weights.
        num_layers: transformer layers.
        attention: numbers of all query heads together, summed over the layers.
        cache: numbers of all keys (or of all values) per token, of one layer.
        widest: inputs or outputs of a layer's widest linear layer.
        hidden, vocabulary: numbers per token between layers, and per prediction.
    """

    shapes: Shapes
    layer_shapes: Shapes
    body: int
    head: int
    is_tied: bool
    linear_ends: int
    num_layers: int
    attention: int
    cache: int
    widest: int
    hidden: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        return in_part(self.shapes, 1)

    @property
    def layer(self) -> int:
        """Weights of one layer."""
        return in_part(self.layer_shapes, 1)

    @property
    def outside(self) -> int:
        """Weights that are in no layer: embeddings, LM head, last norm."""
        return self.parameters - self.num_layers * self.layer

    def trained(self, lora_rank: int | None) -> int:
        """Weights that are trained: all, or adapters on all linear layers but the LM head."""
        return self.parameters if lora_rank is None else lora_rank * self.linear_ends

    def part(self, num_ranks: int) -> int:
        """Weights that the rank with the most of them holds, if they are sharded."""
        return in_part(self.shapes, num_ranks)


def in_part(shapes: Shapes, num_ranks: int) -> int:
    """FSDP2 cuts each weight along its first dimension, and pads the parts to the same size."""
    return sum(-(-first // num_ranks) * (numbers // first) * count for first, numbers, count in shapes)


def sizes_of(config: PreTrainedConfig) -> ModelSizes:
    """Counted once for each configuration."""
    return _sizes_of(as_text(config))


def build(text: str, num_layers: int | None = None, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model on whatever device or mode is set, with as many layers as asked for."""
    facts = json.loads(text)
    config = AutoConfig.for_model(**facts)
    if num_layers is not None:
        config = copy.deepcopy(config)
        config.num_hidden_layers = num_layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:num_layers]
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def as_text(config: PreTrainedConfig) -> str:
    """What tells one model from another, as something that can be remembered by."""
    return json.dumps(config.to_dict(), sort_keys=True, default=str)


@lru_cache
def _sizes_of(text: str) -> ModelSizes:
    with torch.device("meta"):
        model = build(text)
    config, head = model.config, model.get_output_embeddings()
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return ModelSizes(
        shapes=_shapes(model.parameters()),
        layer_shapes=max((_shapes(layer.parameters()) for layer in layers), key=lambda shapes: in_part(shapes, 1)),
        body=sum(module.weight.numel() for module in linear),
        head=head.weight.numel(),
        is_tied=head.weight is model.get_input_embeddings().weight,
        linear_ends=sum(module.in_features + module.out_features for module in linear),
        num_layers=len(layers),
        attention=len(layers) * config.num_attention_heads * head_size,
        cache=key_heads * head_size,
        widest=max(max(module.weight.shape) for module in linear),
        hidden=config.hidden_size,
        vocabulary=head.weight.shape[0],
    )


def _shapes(weights: Iterable[nn.Parameter]) -> Shapes:
    counts = Counter((weight.shape[0], weight.numel()) for weight in weights)
    return tuple((first, numbers, count) for (first, numbers), count in sorted(counts.items()))
