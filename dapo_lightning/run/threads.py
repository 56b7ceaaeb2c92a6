"""How the threads of a run wait for each other."""

from __future__ import annotations

import logging
import os

log = logging.getLogger(__name__)


def wait_passively() -> None:
    """Lets OpenMP threads sleep while they wait, unless OMP_WAIT_POLICY is set; call it before torch is imported.

    By default they spin, and where other programs use the same cores, each thread then keeps the others from the work
    that it waits for. A training step on two cores that were shared with other programs took 1.2 s with spinning
    threads and 0.4 s with sleeping ones.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def log_threads() -> None:
    """Logs the number of threads, which OMP_NUM_THREADS changes."""
    import torch

    log.info("computing with %d threads (OMP_NUM_THREADS=<n> changes that)", torch.get_num_threads())
