"""Shards policies over the ranks with FSDP2 (each rank holds a part of every weight, gradient and optimizer state), and
hides the differences from replicated policies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from dapo_lightning.distributed.shards import load_shards, load_whole, take_ties
from dapo_lightning.distributed.weights import plain_name


class FSDP2(ModelParallelStrategy):
    """Lightning's strategy with all ranks in one data-parallel group. Checkpoints are folders to which all ranks write
    together (see `shards`), and any strategy can load them."""

    shards_weights: ClassVar[bool] = True  # read from the class, before anything is built

    def __init__(self, process_group_backend: str | None = None):
        super().__init__(save_distributed_checkpoint=True, process_group_backend=process_group_backend)

    def _setup_distributed(self) -> None:
        super()._setup_distributed()
        self._data_parallel_size, self._tensor_parallel_size = self.world_size, 1

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        assert self.lightning_module is not None
        take_ties(checkpoint, self.lightning_module)
        self.checkpoint_io.save_checkpoint(checkpoint, Path(self.broadcast(filepath)))  # on all ranks

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads weights and optimizer states. The checkpoint that it returns has the weights' names and shapes."""
        path, module = Path(self.broadcast(checkpoint_path)), self.lightning_module
        assert module is not None
        io: Any = self.checkpoint_io
        checkpoint: dict[str, Any] = torch.load(io.main_file(path), mmap=True, map_location="cpu", weights_only=True)
        if path.is_dir():
            load_shards(checkpoint, path, module, self.optimizers)
        else:
            load_whole(checkpoint, module, self.optimizers)
        return checkpoint


def shard(model: PreTrainedModel, mesh: DeviceMesh, compute_dtype: torch.dtype | None) -> None:
    """Shards the weights in place, layer by layer. Weights outside the layers (embeddings, head) form one more part.

    Args:
        compute_dtype: dtype of the gathered weights; None keeps theirs. Shards and gradients have the dtype of the
            weights.
    """
    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=model.dtype)
    for layer in [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]:
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(model, mesh=mesh, mp_policy=precision)


def fill(model: PreTrainedModel, source: PreTrainedModel) -> None:
    """Fills a sharded model without values from the same model, which is sharded over the same ranks. The source loses
    its weights one by one, so no additional memory is needed. Weights that have values, such as adapters, keep them."""
    plain, parts = model.get_base_model() if hasattr(model, "peft_config") else model, {}
    for name, own in model.named_parameters():
        if own.device.type != "meta":
            continue
        path, _, last = plain_name(name).rpartition(".")
        part = local_part(source.get_submodule(path)._parameters.pop(last).detach())
        if part.device.type == "cpu":
            part = part.clone()  # it may be the file itself, mapped into memory
        parts[name] = DTensor.from_local(
            part, own.device_mesh, own.placements, run_check=False, shape=own.shape, stride=own.stride()
        )
    model.load_state_dict(parts, strict=False, assign=True)
    for name, buffer in source.named_buffers():
        path, _, last = name.rpartition(".")
        plain.get_submodule(path)._buffers[last] = buffer
    plain.tie_weights()


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Gathers all weights on every rank for the block, which all ranks must enter and leave together.

    With sharded weights every decoding step would be a collective that fetches all weights, and all ranks would have to
    wait for the longest completion.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)  # the backward pass begins with the root
            part.reshard()


def class_name(model: nn.Module) -> str:
    """Returns the name of the model's class; sharding derives a class from it."""
    return next(kind.__name__ for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))


def reshard(model: nn.Module) -> None:
    """Frees what a forward pass without a backward pass has left gathered: embeddings and head of a sharded model."""
    if isinstance(model, FSDPModule):
        model.reshard()


def with_states(optimizer: Optimizer, model: nn.Module) -> Optimizer:
    """Returns the optimizer. If the model is sharded, it has the states that it would make in its first step: torch
    makes those that are missing from a checkpoint by a step, and would leave Adam's count of steps at 1."""
    if not is_sharded(model):
        return optimizer
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"] * 0
    return optimizer


def exchanging_gradients(model: nn.Module | None, is_last: bool) -> AbstractContextManager[None]:
    """The context of a backward pass. Replicas (DDP) exchange gradients only in the last one of a gradient step."""
    return nullcontext() if is_last or not isinstance(model, DistributedDataParallel) else model.no_sync()


def local_part(value: Tensor) -> Tensor:
    """Returns this rank's part of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


def full_tensor(value: Tensor) -> Tensor:
    """Returns the full tensor if each rank holds only a part of it. This is a collective for sharded tensors."""
    return value.full_tensor() if isinstance(value, DTensor) else value
