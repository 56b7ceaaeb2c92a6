"""The weights of a model under the names with which it is saved, whether it is sharded or has adapters."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn


def plain_weights(model: nn.Module, with_ties: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights and saved buffers of a model, with its adapters merged in. Sharded ones stay sharded:
    `full_tensor` gathers them, one at a time. For sharded models with adapters, this is a collective.

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


def plain_name(name: str) -> str:
    """The name without what peft adds to it."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "")
