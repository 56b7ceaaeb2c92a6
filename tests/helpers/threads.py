"""Ranks that are threads, for tests of what ranks exchange."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dapo_lightning.distributed.ranks import Ranks


@dataclass(frozen=True)
class Threads(Ranks):
    """Collectives put everything on a table and wait for the others."""

    table: dict[int, Any] = field(default_factory=dict)
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def _exchanged(self, items: Any) -> list[Any]:
        self.table[self.rank] = items
        self.barrier.wait(10)
        found = [self.table[rank] for rank in range(self.size)]
        self.barrier.wait(10)
        return found

    def gather(self, items):
        return [item for part in self._exchanged(list(items)) for item in part]

    def swap(self, sent, lengths):
        received = [tensors[self.rank] for tensors in self._exchanged(list(sent))]
        assert list(map(len, received)) == list(lengths) and len({tensor.dtype for tensor in received}) == 1
        return received


def on_threads(size: int, function: Callable[[Ranks], Any]) -> list[Any]:
    """Returns what a function returns on each of `size` ranks."""
    results: dict[int, Any] = {}
    table: dict[int, Any] = {}
    barrier = threading.Barrier(size)

    def run(rank: int) -> None:
        results[rank] = function(Threads(rank, size, table=table, barrier=barrier))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[rank] for rank in range(size)]
