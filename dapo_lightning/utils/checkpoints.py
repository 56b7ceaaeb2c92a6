"""Finds checkpoints by their names and compares their checksums, without loading any and without importing torch."""

from __future__ import annotations

import re
import zipfile
from functools import cache
from pathlib import Path


class DamagedCheckpointsError(ValueError):
    """A run has checkpoints, but all of them are damaged."""


def all_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, oldest first. Other files, and copies with other names, are ignored."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in found if _steps(path) is not None and path.is_file()), key=steps_done)


def latest(folder: Path) -> Path | None:
    """Returns the newest checkpoint in a folder by its name, or None if there is none."""
    found = all_checkpoints(folder)
    return found[-1] if found else None


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """Returns the newest checkpoint whose checksums are correct (None if there are no checkpoints), and a phrase about
    each newer one, which is damaged.

    Raises:
        DamagedCheckpointsError: if there are checkpoints, but all of them are damaged.
    """
    damaged: list[str] = []
    for path in reversed(all_checkpoints(folder)):
        reason = damage(path)
        if reason is None:
            return path, damaged
        damaged.append(f"{path} is damaged ({reason})")
    if damaged:
        raise DamagedCheckpointsError(
            f"{'; '.join(damaged)}, and there is no other checkpoint. Start the run again in another folder."
        )
    return None, damaged


def damage(checkpoint: Path) -> str | None:
    """Returns what is wrong with a checkpoint file, or None if its content matches its checksums. torch writes them but
    does not verify them. Each version of a file is read once per process."""
    state = checkpoint.stat()
    return _damage(checkpoint, state.st_size, state.st_mtime_ns)


@cache
def _damage(checkpoint: Path, size: int, changed: int) -> str | None:
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            records = archive.infolist()
            packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
            if packed or sum(record.file_size for record in records) > size:  # could fill the memory once expanded
                return f"{packed[0] if packed else 'its content'} is compressed, and runs never compress checkpoints"
            bad = archive.testzip()
    except Exception as error:  # damaged headers raise errors of many kinds
        return str(error) or type(error).__name__
    return None if bad is None else f"the checksum of {bad} is wrong"


def steps_done(checkpoint: Path) -> int:
    """Returns the number of DAPO steps before a checkpoint, which its name contains."""
    steps = _steps(checkpoint)
    if steps is None:
        raise ValueError(f"{checkpoint} is not named step_<number>.ckpt, as checkpoints are.")
    return steps


def _steps(path: Path) -> int | None:
    match = re.fullmatch(r"step_(\d{6,})\.ckpt", path.name, re.ASCII)
    return int(match[1]) if match else None
