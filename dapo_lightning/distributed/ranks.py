"""The processes of a run, and collectives on small Python objects and on tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of the run, or among those of a `group` of them. With one process, nothing
    is exchanged."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @staticmethod
    def current() -> Ranks:
        """Returns the place in the process group that Lightning's strategy has set up, if there is one."""
        if not (dist.is_available() and dist.is_initialized()):
            return Ranks()
        return Ranks(dist.get_rank(), dist.get_world_size())

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """Returns this rank's share of a sequence that all ranks know: every `size`-th item."""
        return items[self.rank :: self.size]

    def gather(self, items: Sequence[T]) -> list[T]:
        """Returns the items of all ranks, rank by rank, on every rank."""
        if self.size == 1:
            return list(items)
        parts: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, list(items), group=self.group)
        return [item for part in parts for item in part]

    def swap(self, sent: Sequence[Tensor], lengths: Sequence[int]) -> Sequence[Tensor]:
        """Sends a tensor [n] on the CPU to each rank, and returns the tensors that come from each rank.

        Args:
            sent: all of the same dtype, on all ranks.
            lengths: numbers of elements that come from each rank.
        """
        if self.size == 1:
            return sent
        device = "cuda" if dist.get_backend(self.group) == "nccl" else "cpu"  # NCCL cannot send CPU tensors
        given = torch.cat(list(sent)).to(device)
        received = given.new_empty(sum(lengths))
        dist.all_to_all_single(received, given, list(lengths), [len(tensor) for tensor in sent], group=self.group)
        return received.cpu().split(list(lengths))

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors, of the same dtype and the same shapes on all ranks, by their means over the ranks."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat, group=self.group)
        parts = (flat / self.size).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Returns once all ranks have called it."""
        self.gather([None])

    def max(self, value: int) -> int:
        """Returns the largest value of all ranks."""
        return max(self.gather([value]))
