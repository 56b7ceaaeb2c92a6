"""Processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal

_LAUNCHER = "DAPO_LIGHTNING_LAUNCHER"
_PR_SET_PDEATHSIG = 1


def end_with_launcher() -> None:
    """Lets a rank that Lightning has started die with the first rank, however that ends.

    Lightning watches from the first rank over the others only. While a rank waits for the first one to appear, neither
    an error nor SIGTERM reaches it. (Linux only; elsewhere, nothing happens.)
    """
    launcher = os.environ.get(_LAUNCHER)
    if int(os.environ.get("LOCAL_RANK", 0)) == 0 or launcher is None:
        os.environ[_LAUNCHER] = str(os.getpid())
        return
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != int(launcher):  # it has ended already
        os._exit(1)
