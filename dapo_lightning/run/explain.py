"""Explains errors of the machine in one sentence instead of a traceback."""

from __future__ import annotations

import os
from pathlib import Path

NO_ROOM = "No space left on device"


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
    if "EADDRINUSE" in text:
        port = os.environ.get("MASTER_PORT")
        return f"the processes cannot connect, because another program uses MASTER_PORT={port}: choose another port."
    if "Connection closed by peer" in text or "Connection reset by peer" in text:
        return "another process of this run has ended; see its error message above, if there is one. (Connection lost.)"
    return None
