"""Policies sharded over the ranks (FSDP2: each rank holds a part of every weight, gradient and optimizer state), and
what sharded and replicated ones do differently."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


class FSDP2(ModelParallelStrategy):
    """Lightning's strategy with all ranks in one data-parallel group; checkpoints are single files, as those of any
    other strategy, so that each loads what the other saved.

    Args:
        timeout_minutes: how long a rank waits for the others (while the first writes a checkpoint, say) before the run
            is given up.
    """

    shards_weights: ClassVar[bool] = True  # read before anything is built, as by the plan

    def __init__(self, timeout_minutes: float = 60.0, process_group_backend: str | None = None):
        super().__init__(
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timedelta(minutes=timeout_minutes),
        )

    def _setup_distributed(self) -> None:
        super()._setup_distributed()
        self._data_parallel_size, self._tensor_parallel_size = self.world_size, 1

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """As Lightning's, which forgets that `fit` was given `weights_only=False`."""
        return super().load_checkpoint(checkpoint_path, weights_only=False)


def shard(model: PreTrainedModel, mesh: DeviceMesh, compute_dtype: torch.dtype | None) -> None:
    """Shards the weights in place, layer by layer; what is in no layer (embeddings, head) is one more part.

    Args:
        compute_dtype: of the gathered weights; None: as they are. Shards and gradients keep the type of the weights.
    """
    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=model.dtype)
    for layer in [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]:
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(model, mesh=mesh, mp_policy=precision)


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Whole weights on every rank, for the block, which all ranks enter and leave together.

    Ranks generate for as many tokens as their own completions take. With sharded weights each of these would be a
    collective: all would have to go on until the longest is done, and fetch all weights at every token.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)  # backward begins with the root's
            part.reshard()


def exchanging_gradients(model: nn.Module | None, is_last: bool) -> AbstractContextManager[None]:
    """For a backward pass: replicas (DDP) exchange gradients once per gradient step, in the last one."""
    return nullcontext() if is_last or not isinstance(model, DistributedDataParallel) else model.no_sync()


def whole(value: Tensor) -> Tensor:
    """A tensor of which each rank may hold a part, whole; a collective, if so."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_state(model: nn.Module) -> dict[str, Any]:
    """All weights on the CPU of rank 0, nothing on others; a collective."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
