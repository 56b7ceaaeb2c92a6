"""Wall time by what it is spent on."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class Clock:
    """Seconds spent under each name so far. Time is charged once: a block inside a block belongs to the outer one."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._at_last_lap: dict[str, float] = {}
        self._is_running = False

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Adds the wall time of the block to `name`. Waits for the GPU, so that no other block is charged for its
        work."""
        if self._is_running:
            yield
            return
        start, self._is_running = _now(), True
        try:
            yield
        finally:
            self.seconds[name] += _now() - start
            self._is_running = False

    @contextmanager
    def remainder(self, name: str) -> Iterator[None]:
        """Adds to `name` the wall time of the block that is not charged to other names within it."""
        if self._is_running:
            yield
            return
        start, charged = _now(), sum(self.seconds.values())
        try:
            yield
        finally:
            self.seconds[name] += max(0.0, _now() - start - (sum(self.seconds.values()) - charged))

    def lap(self) -> dict[str, float]:
        """Seconds spent under each name since the last lap."""
        before, self._at_last_lap = self._at_last_lap, dict(self.seconds)
        return {name: total - before.get(name, 0.0) for name, total in self.seconds.items()}

    def load(self, seconds: Mapping[str, float]) -> None:
        """Continues from the seconds of an earlier session."""
        self.seconds.update(seconds)
        self._at_last_lap = dict(self.seconds)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
