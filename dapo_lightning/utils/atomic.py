"""Writes files that are either complete or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and renames it into place if the block ends without an error.

    A kill, an error or a loss of power does not change the previous file, because the new file, and then its name, are
    flushed to disk. After an error, the temporary file is removed, because the disk may be full. The folder is not
    created, so that a run ends if its folder was removed.
    """
    partial = path.with_suffix(".partial")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
        with suppress(OSError):  # some network file systems cannot flush folders
            flush(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
