"""Settings of the libraries that compute. Most are read when a library is first imported."""

from __future__ import annotations

import ctypes
import logging
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 2**27  # bytes
KEPT_BY_OLD_GLIBC = 2**25  # the most that it allows

log = logging.getLogger(__name__)


def wait_passively() -> None:
    """Makes OpenMP threads sleep while they wait, unless OMP_WAIT_POLICY is set. Call it before torch is imported.

    By default, waiting threads spin. If other programs use the same cores, a spinning thread takes time from the
    thread that it waits for: a training step on two shared cores took 1.2 s with spinning threads and 0.4 s with
    sleeping threads.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def bound_kernel_caches() -> None:
    """Limits the two caches of kernels with which bf16 is computed on CPUs, that of torch and that of oneDNN below it,
    to 64 kernels each, unless the environment sets their limits. A kernel belongs to one shape, and packed
    micro-batches hardly ever repeat a shape: with torch's limit of 1,024 kernels for each operation, a run of a tiny
    policy grew by 300 MB in 300 steps. Call this function before torch is imported."""
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def keep_freed_memory() -> None:
    """Makes glibc keep freed blocks of up to 128 MB for later tensors, unless the environment sets its thresholds.

    By default, glibc returns large blocks to the system. Each new tensor then costs a page fault for every 4 kB, which
    took a tenth of the CPU time of an update. Other allocators are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    is_set = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    if mallopt is None or is_set or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    if mallopt(M_MMAP_THRESHOLD, KEPT) or mallopt(M_MMAP_THRESHOLD, KEPT_BY_OLD_GLIBC):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def log_threads() -> None:
    """Logs the number of threads, which OMP_NUM_THREADS sets."""
    import torch

    count = torch.get_num_threads()
    log.info("computing with %d %s (OMP_NUM_THREADS=<n> changes it)", count, "thread" if count == 1 else "threads")
