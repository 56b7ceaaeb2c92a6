"""Errors of the machine that a run meets, in one sentence instead of a traceback."""

from __future__ import annotations

import os
from pathlib import Path

NO_ROOM = "No space left on device"


def explanation(error: BaseException, folder: Path) -> str | None:
    """Returns one sentence for an error whose traceback would not help, or None for any other error.

    Args:
        folder: of the run.
    """
    text = str(error)
    if type(error).__module__.startswith("dapo_lightning."):
        return text
    if isinstance(error, OSError) and not folder.is_dir():
        return f"{folder} was removed while the run was writing to it."
    if NO_ROOM in text:
        return f"{NO_ROOM} ({folder}). Make room, and continue the run."
    if "EADDRINUSE" in text:
        port = os.environ.get("MASTER_PORT")
        return f"the processes cannot find each other, since another program uses MASTER_PORT={port}: choose another."
    if "Connection closed by peer" in text or "Connection reset by peer" in text:
        return (
            "another process of this run has ended; its error, if it could report one, stands above. (Connection lost.)"
        )
    return None
