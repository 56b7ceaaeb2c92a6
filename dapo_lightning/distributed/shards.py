"""Checkpoints of sharded runs: a folder to which all ranks write their parts of weights and optimizer states at once.

torch.distributed.checkpoint writes and reads the parts as safetensors files. (Its default format has a pickle beside
them, whose loading could run code.) Any number of ranks, and a process without shards, can read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

FILE_BYTES = 2**31  # of a rank's file; it is in memory twice while it is written


class ShardsError(ValueError):
    """The parts in a checkpoint are not those that are needed."""


def take_ties(checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Removes the second name of each tied weight and records which one it was."""
    first, ties = dict[nn.Parameter, str](), {}
    for name, weight in module.named_parameters(remove_duplicate=False):
        if first.setdefault(weight, name) != name and name in checkpoint["state_dict"]:
            ties[name] = first[weight]
            del checkpoint["state_dict"][name]
    checkpoint["ties"] = ties


def _tie(checkpoint: dict[str, Any]) -> None:
    weights = checkpoint["state_dict"]
    weights |= {name: weights[first] for name, first in checkpoint["ties"].items() if first in weights}


def take_shards(checkpoint: dict[str, Any]) -> dict[str, DTensor]:
    """Removes the sharded tensors from a checkpoint of Lightning and returns them by their place in it."""
    return {
        f"{place}/{name}": values.pop(name)
        for place, values in _places(checkpoint)
        for name in [name for name, value in values.items() if isinstance(value, DTensor)]
    }


def write_shards(shards: Mapping[str, DTensor], folder: Path) -> None:
    """Writes this rank's parts into files of its own. A collective."""
    numbers, total = {}, 0
    for name, shard in shards.items():
        numbers[name] = 1 + total // FILE_BYTES
        total += shard.to_local().nbytes
    dcp.save(dict(shards), storage_writer=HuggingFaceStorageWriter(str(folder), numbers, save_distributed=True))


def read_whole(checkpoint: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Puts whole tensors into a checkpoint whose parts are in a folder, as if a single process had written it."""
    shapes, places = _shapes(folder), dict(_places(checkpoint))
    whole = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
    dcp.load(whole, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    for name, value in whole.items():
        place, _, last = name.rpartition("/")
        if place not in places:
            raise ShardsError(f"{folder} contains {name}, which does not belong to its checkpoint.")
        places[place][last] = value
    _tie(checkpoint)
    for optimizer in checkpoint.get("optimizer_states", []):
        _rename(optimizer, {name: i for i, name in enumerate(_names_in(optimizer))})
    return checkpoint


def load_shards(checkpoint: dict[str, Any], folder: Path, model: nn.Module, optimizers: list[Optimizer]) -> None:
    """Reads this rank's parts into a sharded model and its optimizers, and puts weights without values into the
    checkpoint, so that their names and shapes can be compared with those of the model. A collective."""
    shapes, state = _shapes(folder), dict[str, Any](get_model_state_dict(model))
    for name, (shape, dtype) in shapes.items():
        if name.startswith("weights/"):
            checkpoint["state_dict"][name.removeprefix("weights/")] = torch.empty(shape, dtype=dtype, device="meta")
    _tie(checkpoint)
    ours = {f"weights/{name}": weight for name, weight in state.items()}
    states: list[Any] = [get_optimizer_state_dict(model, optimizer) for optimizer in optimizers]
    ours |= {
        f"{place}/{name}": value
        for place, values in _places({"state_dict": {}, "optimizer_states": states})
        for name, value in values.items()
    }
    wanted = {name: value for name, value in ours.items() if name in shapes and shapes[name][0] == value.shape}
    dcp.load(wanted, storage_reader=HuggingFaceStorageReader(str(folder)))  # in place
    set_model_state_dict(model, state, options=StateDictOptions(strict=False))
    for own, saved, optimizer in zip(states, checkpoint.get("optimizer_states", []), optimizers, strict=False):
        for name, values in own["state"].items():
            values |= saved["state"].get(name, {})  # counts of steps, which are not sharded
        set_optimizer_state_dict(model, optimizer, {"state": own["state"], "param_groups": saved["param_groups"]})


def load_whole(checkpoint: dict[str, Any], model: nn.Module, optimizers: list[Optimizer]) -> None:
    """Loads a checkpoint of a process without shards into a sharded model and its optimizers. A collective."""
    options = StateDictOptions(full_state_dict=True, strict=False)
    shapes = {name: value.shape for name, value in dict[str, Any](get_model_state_dict(model)).items()}
    fitting = {n: value for n, value in checkpoint["state_dict"].items() if shapes.get(n) == value.shape}
    set_model_state_dict(model, fitting, options=options)
    names = {weight: name for name, weight in model.named_parameters()}
    for saved, optimizer in zip(checkpoint.get("optimizer_states", []), optimizers, strict=False):
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        _rename(saved, {i: names[weight] for i, weight in enumerate(weights)})
        set_optimizer_state_dict(model, optimizer, saved, options=options)


def _places(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the mappings of a checkpoint that contain tensors, with the name of their place."""
    yield "weights", checkpoint.get("state_dict", {})
    for number, optimizer in enumerate(checkpoint.get("optimizer_states", [])):
        for name in _names_in(optimizer):
            yield f"optimizer {number}/{name}", optimizer["state"].setdefault(name, {})


def _names_in(optimizer: Mapping[str, Any]) -> list[str]:
    return [name for group in optimizer["param_groups"] for name in group["params"]]


def _rename(optimizer: dict[str, Any], names: Mapping[Any, Any]) -> None:
    """Renames the weights of an optimizer's state: Lightning numbers them, and sharded states have names."""
    optimizer["state"] = {names[old]: values for old, values in optimizer["state"].items()}
    for group in optimizer["param_groups"]:
        group["params"] = [names[old] for old in group["params"]]


def _shapes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Returns the shapes and types of the tensors in a folder.

    Raises:
        ShardsError: if the parts of a tensor do not make up a whole one; it may come from somebody else.
    """
    found: dict[str, Any] = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    for name, tensor in found.items():
        if sum(chunk.sizes.numel() for chunk in tensor.chunks) != tensor.size.numel():
            raise ShardsError(f"{folder}: parts of {name} are missing.")
    return {name: (tensor.size, tensor.properties.dtype) for name, tensor in found.items()}
