"""Tensors that follow freed ones cost no page faults."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FREE_AND_TAKE = """
import ctypes, resource, sys
from dapo_lightning.run.threads import keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 24 * 2**20
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), max(faults() for _ in range(5)))
"""


def faults(**environment: str) -> tuple[int, int]:
    """Page faults of the first block of 24 MB, and the most of any that follows."""
    command = [sys.executable, "-c", FREE_AND_TAKE]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean | environment)
    first, later = map(int, done.stdout.split())
    return first, later


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's thresholds")
def test_freed_blocks_are_taken_again():
    first, later = faults()
    assert later < first / 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's thresholds")
def test_thresholds_of_the_environment_stay():
    first, later = faults(MALLOC_MMAP_THRESHOLD_="100000")
    assert later > first / 2
