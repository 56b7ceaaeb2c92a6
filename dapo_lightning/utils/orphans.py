"""Processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal

_LAUNCHER = "DAPO_LIGHTNING_LAUNCHER"
_PR_SET_PDEATHSIG = 1


def end_with_launcher() -> None:
    """Makes a rank that Lightning has started end together with the first rank, however the first rank ends.

    Only the first rank watches the others in Lightning. While another rank waits for the first one, neither an error
    nor SIGTERM ends it. (On systems other than Linux, this function does nothing.)
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
