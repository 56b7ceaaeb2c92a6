"""Explains errors of the machine in one sentence instead of a traceback."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_OF_THE_DISK = [os.strerror(n) for n in (errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)]
NO_ROOM = os.strerror(errno.ENOSPC)


def explanation(error: BaseException, folder: Path) -> str | None:
    """Returns one sentence for an error whose traceback would not help, or None for any other error.

    Args:
        folder: folder of the run.
    """
    text = str(error)
    if type(error).__module__.startswith("dapo_lightning."):
        return text
    if isinstance(error, OSError) and not folder.is_dir():
        return f"{folder} was removed while the run was writing to it."
    if NO_ROOM in text:
        return f"{NO_ROOM} ({folder}). Free some space, and continue the run."
    if reason := next((reason for reason in _OF_THE_DISK if reason in text), None):
        return f"{reason} ({folder}). Once the problem is solved, continue the run."
    if isinstance(error, OSError) and str(folder) in text:
        text = text.partition("] ")[2] if text.startswith("[Errno") else text
        return f"a file of the run cannot be used ({text}). Repair or remove it, and continue the run."
    if "EADDRINUSE" in text:
        port = os.environ.get("MASTER_PORT")
        return f"the processes cannot connect, because another program uses MASTER_PORT={port}: choose another port."
    if "Connection closed by peer" in text or "Connection reset by peer" in text:
        return "another process of this run has ended; see its error message above, if there is one. (Connection lost.)"
    return None
