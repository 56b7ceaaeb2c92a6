"""The processes of a run, and collectives on small Python objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run. With one process, every method returns its argument."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> Ranks:
        """The process group that Lightning's strategy has set up, if any."""
        if not (dist.is_available() and dist.is_initialized()):
            return Ranks()
        return Ranks(dist.get_rank(), dist.get_world_size())

    def owns(self, place: int) -> bool:
        """Whether an item at this place of a sequence falls to this rank."""
        return place % self.size == self.rank

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's share of a sequence that all ranks know, dealt like cards."""
        return items[self.rank :: self.size]

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all ranks, rank by rank, on every rank."""
        if self.size == 1:
            return list(items)
        parts: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def max(self, value: int) -> int:
        """The largest of the ranks' values."""
        return max(self.gather([value]))
