"""Sizes of a causal LM, counted on the meta device, which allocates no weights, and the shapes of Qwen2.5."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, Qwen2Config
from transformers.modeling_layers import GradientCheckpointingLayer

_FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "tie_word_embeddings",
)  # fmt: skip
QWEN = {
    "Qwen/Qwen2.5-0.5B": (896, 4864, 24, 14, 2, 151936, True),
    "Qwen/Qwen2.5-7B": (3584, 18944, 28, 28, 4, 152064, False),
    "Qwen/Qwen2.5-32B": (5120, 27648, 64, 40, 8, 152064, False),
}
"""From `config.json` on the model cards, so that planning these models needs no network."""


def known_config(name: str) -> PreTrainedConfig | None:
    """Returns the configuration of a model in `QWEN`; its instruct variant has the same shape."""
    shape = QWEN.get(name.removesuffix("-Instruct"))
    return Qwen2Config(**dict(zip(_FIELDS, shape, strict=True))) if shape else None


@dataclass(frozen=True)
class ModelSizes:
    """Numbers of weights, with tied embeddings and LM head counted once, and widths of activations."""

    shapes: tuple[tuple[int, int], ...]  # first dimension and number of elements of each weight
    layer: int  # weights of the largest layer
    body: int  # weights of all linear layers except the LM head, by which each token is multiplied
    head: int  # weights of the LM head
    is_tied: bool  # LM head and embeddings are the same
    linear_ends: int  # inputs plus outputs of `body`; an adapter of rank r has r times as many weights
    num_layers: int
    attention: int  # width of all query heads together, summed over the layers
    cache: int  # width of all keys (or of all values) of one token in one layer
    key_heads: int  # among which that width is divided
    widest: int  # inputs or outputs of a layer's widest linear layer
    hidden: int  # width of a hidden state
    vocabulary: int  # number of logits

    @property
    def parameters(self) -> int:
        return self.part(num_ranks=1)

    @property
    def linear(self) -> int:
        """Weights of all linear layers."""
        return self.body + self.head

    @property
    def outside(self) -> int:
        """Weights outside the layers: embeddings, LM head, last norm."""
        return self.parameters - self.num_layers * self.layer

    def trained(self, lora_rank: int | None) -> int:
        """Weights that are trained: all, or adapters of all linear layers except the LM head."""
        return self.parameters if lora_rank is None else lora_rank * self.linear_ends

    def critic(self) -> ModelSizes:
        """The sizes of the same model with one output in place of logits. Its embeddings are its own."""
        shapes = list(self.shapes)
        if not self.is_tied:
            shapes.remove((self.vocabulary, self.head))
        shapes += [(1, self.hidden), (1, 1)]  # the weights of the head and its bias
        return replace(self, shapes=tuple(shapes), head=self.hidden, is_tied=False, vocabulary=1)

    @property
    def largest(self) -> int:
        """Number of elements of the largest weight."""
        return max(size for _, size in self.shapes)

    def part(self, num_ranks: int) -> int:
        """Weights in a shard: FSDP2 splits each weight along its first dimension and pads the parts to equal size."""
        return sum(-(-first // num_ranks) * (size // first) for first, size in self.shapes)


def as_text(config: PreTrainedConfig) -> str:
    """Returns a configuration as a string, a key for caches."""
    return json.dumps(config.to_dict(), sort_keys=True, default=str)


def build(text: str, num_layers: int | None = None, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Builds the model on the current device or under the current mode, optionally with fewer layers."""
    config = AutoConfig.for_model(**json.loads(text))
    if num_layers is not None:
        config.num_hidden_layers = num_layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:num_layers]
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def sizes_of(config: PreTrainedConfig) -> ModelSizes:
    """Counts a model, once for each configuration."""
    return _sizes_of(as_text(config))


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
        shapes=tuple((weight.shape[0], weight.numel()) for weight in model.parameters()),
        layer=max(sum(weight.numel() for weight in layer.parameters()) for layer in layers),
        body=sum(module.weight.numel() for module in linear),
        head=head.weight.numel(),
        is_tied=head.weight is model.get_input_embeddings().weight,
        linear_ends=sum(module.in_features + module.out_features for module in linear),
        num_layers=len(layers),
        attention=len(layers) * config.num_attention_heads * head_size,
        cache=key_heads * head_size,
        key_heads=key_heads,
        widest=max(max(module.weight.shape) for module in linear),
        hidden=config.hidden_size,
        vocabulary=head.weight.shape[0],
    )
