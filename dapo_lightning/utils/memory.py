"""Measures the memory of this process."""

from __future__ import annotations

import resource

import torch


def peak_memory_mb() -> float:
    """Returns the peak memory so far in MB, of the GPU if there is one, and otherwise of the process (resident)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
