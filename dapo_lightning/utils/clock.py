"""Where the time goes: named stopwatches."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Seconds spent under each name so far."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Adds the wall time of the block to `name`; waits for the GPU, whose work would else be charged to others."""
        start = _now()
        try:
            yield
        finally:
            self.seconds[name] += _now() - start

    @contextmanager
    def rest(self, name: str) -> Iterator[None]:
        """Adds to `name` what is left of the wall time of the block beside what is charged within it."""
        start, charged = _now(), sum(self.seconds.values())
        try:
            yield
        finally:
            self.seconds[name] += max(0.0, _now() - start - (sum(self.seconds.values()) - charged))


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
