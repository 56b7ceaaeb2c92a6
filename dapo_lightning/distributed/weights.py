"""The weights of a model under the names with which it is saved, whether it is sharded or has adapters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, revert_weight_conversion

_LAYER = re.compile(r".*\.\d+\.|")


def plain_weights(model: nn.Module, with_ties: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights and saved buffers of a model by their names in memory, with its adapters merged in. Sharded
    ones stay sharded: `full_tensor` gathers them, one at a time. For sharded models with adapters, this is a
    collective.

    Args:
        with_ties: also yield tied weights under their second name.
    """
    adapters = {  # by the name of the weight that they adapt; adapters of two weights of one module are nested
        (plain_name(name), getattr(layer, "parameter_name", "weight")): layer
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    seen = set[int]()
    for name, value in model.state_dict(keep_vars=True).items():
        if ".lora_" in name:
            continue
        plain = plain_name(name)
        layer_name, _, weight_name = plain.rpartition(".")
        layer, merged = adapters.get((layer_name, weight_name)), value.detach()
        if layer is not None:
            for adapter in layer.active_adapters:
                merged = merged + layer.get_delta_weight(adapter)
            yield plain, merged.detach()
        elif with_ties or id(value) not in seen:
            seen.add(id(value))
            yield plain, merged


def saved_weights(model: PreTrainedModel, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yields weights with the names and shapes that they have in the hub's files, where each expert of a layer has
    weights of its own. If a model has such layers, the weights of one layer are held in memory at a time.

    Args:
        weights: pairs of a name in memory and a whole tensor, in the order of the model.
    """
    conversions = getattr(model, "_weight_conversions", None) or get_model_conversion_mapping(model, add_legacy=False)
    has_fused = any(isinstance(conversion, WeightConverter) for conversion in conversions)

    def together(weight: tuple[str, Tensor]) -> str:
        name = weight[0]
        return _LAYER.match(name)[0] or name if has_fused else name  # type: ignore[index]

    for _, group in groupby(weights, together):
        yield from revert_weight_conversion(model, dict(group)).items()


def plain_name(name: str) -> str:
    """The name without what peft adds to it."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "")
