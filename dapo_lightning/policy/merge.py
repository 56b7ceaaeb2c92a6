"""Merges adapters into the weights of their model."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import distribute_tensor
from transformers import PreTrainedModel

from dapo_lightning.distributed.weights import plain_name
from dapo_lightning.policy import PolicyError

if TYPE_CHECKING:
    from peft import PeftModel

_OF_PLAIN_ADAPTERS = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "use_rslora",
    "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
}  # fmt: skip
"""Settings with which merging means adding. All others must have peft's default values."""


def check_peft(what: str) -> None:
    """Raises a PolicyError with the remedy if peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise PolicyError(f'{what} needs the package peft: pip install "dapo-lightning[lora]"')


def merge(adapted: PeftModel) -> PreTrainedModel:
    """Returns the plain model, whose weights include the adapters. Changes `adapted`.

    If the head shares its weights with the embedding and one of them has an adapter, the head gets its own copy,
    because merging an adapter into one of them must not change the other.
    """
    model: Any = adapted.get_base_model()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    inner, outer = _without_adapter(embedding), _without_adapter(head)
    if (inner, outer) != (embedding, head) and outer.weight is inner.weight:
        outer.weight = nn.Parameter(outer.weight.detach().clone(), requires_grad=False)
    merged: Any = adapted.merge_and_unload()
    if merged.get_output_embeddings().weight is not merged.get_input_embeddings().weight:
        merged.config.tie_word_embeddings = False  # otherwise saving and loading would tie them again
    return cast(PreTrainedModel, merged)


@contextmanager
def untied_if_adapted(model: PreTrainedModel) -> Iterator[None]:
    """Within the context, the configuration says that head and embedding differ, if an adapter makes them differ."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if (_without_adapter(embedding), _without_adapter(head)) == (embedding, head):
        yield
        return
    before = model.config.tie_word_embeddings
    model.config.tie_word_embeddings = False
    try:
        yield
    finally:
        model.config.tie_word_embeddings = before


def merged_from(folder: Path, model: PreTrainedModel) -> PreTrainedModel:
    """Returns the model with the adapters of a folder merged in. All weights are trainable.

    Raises:
        PolicyError: if peft is not installed.
        ValueError: as `_read` does.
    """
    check_peft(f"policy.name={folder}: a folder with adapters")
    import peft  # slow to import

    with torch.random.fork_rng(devices=[]):  # so that loading draws no random numbers
        adapted = peft.PeftModel.from_pretrained(model, str(folder))
    _read(folder, adapted)
    return merge(adapted).requires_grad_(True)


def addable_from(folder: Path, model: PreTrainedModel) -> dict[str, Any] | None:
    """Returns the layers with the adapters of a folder, by the names of their weights, or None if merging means more
    than adding `get_delta_weight` to these weights (DoRA, biases, adapters on embedding or head, ...).

    Args:
        model: the model of the adapters, without values; it gets the adapters.
    """
    check_peft(f"policy.name={folder}: a folder with adapters")
    import peft  # slow to import

    config, plain = peft.PeftConfig.from_pretrained(str(folder)), peft.LoraConfig()
    others = {field.name for field in fields(plain)} - _OF_PLAIN_ADAPTERS
    if type(config) is not peft.LoraConfig or any(getattr(config, name) != getattr(plain, name) for name in others):
        return None
    with on_the_cpu(model), torch.random.fork_rng(devices=[]):
        adapted: Any = peft.get_peft_model(model, config)
    layers = {name: layer for name, layer in adapted.named_modules() if hasattr(layer, "get_delta_weight")}
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    if any(layer in ends for layer in layers.values()):
        return None
    _read(folder, adapted)
    return {f"{plain_name(name)}.weight": layer for name, layer in layers.items()}


def _read(folder: Path, adapted: PeftModel) -> None:
    """Reads the adapters of a folder.

    Raises:
        ValueError: if an adapter is missing, so that it would be random, or belongs to a layer without adapters, so
            that it would be left out.
    """
    import peft  # slow to import

    found = peft.set_peft_model_state_dict(adapted, peft.load_peft_weights(str(folder), device="cpu"))
    for names, what in (
        (found.missing_keys, "are missing in its file"),
        (found.unexpected_keys, "in its file belong to no layer that adapter_config.json names"),
    ):
        if adapters := [name for name in names if "lora_" in name]:
            raise ValueError(f"{len(adapters)} tensors {what}, for example {adapters[0]}")


def add_to_shards(layers: Mapping[str, Any], model: PreTrainedModel) -> None:
    """Merges adapters (see `addable_from`) into a sharded model, one weight at a time."""
    for name, layer in layers.items():
        path, _, last = name.rpartition(".")
        merged: Any = model.get_parameter(name).detach()
        for adapter in layer.active_adapters:
            delta = layer.get_delta_weight(adapter).detach().to(merged.device, merged.dtype)
            # Every rank has the whole adapters, so nothing has to be sent.
            merged = merged + distribute_tensor(delta, merged.device_mesh, merged.placements, src_data_rank=None)
        model.get_submodule(path)._parameters[last] = nn.Parameter(merged)


@contextmanager
def on_the_cpu(model: PreTrainedModel) -> Iterator[None]:
    """Within the context, weights without values are on the CPU, where each is a single repeated number: adapters are
    created on the device of the weights."""
    without_values = [weight for weight in model.parameters() if weight.device.type == "meta"]
    meta = [weight.data for weight in without_values]
    for weight in without_values:
        torch.utils.swap_tensors(weight, _like(weight, torch.zeros((), dtype=weight.dtype).expand(weight.shape)))
    yield
    for weight, data in zip(without_values, meta, strict=True):
        torch.utils.swap_tensors(weight, _like(weight, data))


def _like(weight: nn.Parameter, data: Tensor) -> nn.Parameter:
    return nn.Parameter(data, requires_grad=weight.requires_grad)


def _without_adapter(layer: Any) -> Any:
    return getattr(layer, "base_layer", layer)
