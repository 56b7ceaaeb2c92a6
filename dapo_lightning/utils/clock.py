"""Measures wall time by activity."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class Clock:
    """Seconds spent under each name so far. Time counts once: a block inside another adds to the outer name only."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._at_last_lap: dict[str, float] = {}
        self._is_running = False

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Adds the wall time of the block to `name`. It waits for the GPU, whose work would otherwise count for a later
        block."""
        if self._is_running:
            yield
            return
        start, self._is_running = _now(), True
        try:
            with torch.profiler.record_function(name):  # a mark in the trace of profile=true
                yield
        finally:
            self.seconds[name] += _now() - start
            self._is_running = False

    @contextmanager
    def remainder(self, name: str) -> Iterator[None]:
        """Adds the wall time of the block that other names within it do not account for to `name`."""
        if self._is_running:
            yield
            return
        start, charged = _now(), sum(self.seconds.values())
        try:
            yield
        finally:
            self.seconds[name] += max(0.0, _now() - start - (sum(self.seconds.values()) - charged))

    def lap(self) -> dict[str, float]:
        """Returns the seconds spent under each name since the last call."""
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
