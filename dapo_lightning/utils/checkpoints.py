"""Finds checkpoints by their names and compares their checksums, without loading any and without importing torch.

A checkpoint is a file or, if the run was sharded, a folder: `MAIN` with everything that is not sharded, the ranks'
parts of weights and optimizer states, and `CHECKSUMS` with the size and the checksum of each part.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
import zlib
from functools import cache
from pathlib import Path

MAIN, CHECKSUMS, PARTS = "main.ckpt", "checksums.json", "*.safetensors"


class DamagedCheckpointsError(ValueError):
    """A run has checkpoints, but all of them are damaged."""


def all_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, oldest first. Other files, and copies with other names, are ignored."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in found if _steps(path) is not None and main_file(path).is_file()), key=steps_done)


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
    files = sorted(checkpoint.iterdir()) if checkpoint.is_dir() else [checkpoint]
    states = {path: path.stat() for path in files}
    return _damage(checkpoint, tuple((path, state.st_size, state.st_mtime_ns) for path, state in states.items()))


def main_file(checkpoint: Path) -> Path:
    """Returns the file with everything of a checkpoint that is not sharded."""
    return checkpoint / MAIN if checkpoint.is_dir() else checkpoint


def checksum(path: Path) -> list[int]:
    """Returns the size and the CRC-32 of a file."""
    found = 0
    with path.open("rb") as file:
        while content := file.read(2**24):
            found = zlib.crc32(content, found)
    return [path.stat().st_size, found]


def remove(path: Path) -> None:
    """Removes a checkpoint, or what an interruption has left of it."""
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@cache
def _damage(checkpoint: Path, versions: tuple[tuple[Path, int, int], ...]) -> str | None:
    try:
        if checkpoint.is_dir() and (reason := _damaged_part(checkpoint)):
            return reason
        checkpoint = main_file(checkpoint)
        with zipfile.ZipFile(checkpoint) as archive:
            records = archive.infolist()
            packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
            if (
                packed or sum(record.file_size for record in records) > checkpoint.stat().st_size
            ):  # could fill the memory once expanded
                return f"{packed[0] if packed else 'its content'} is compressed, and runs never compress checkpoints"
            bad = archive.testzip()
    except Exception as error:  # damaged headers raise errors of many kinds
        return str(error) or type(error).__name__
    return None if bad is None else f"the checksum of {bad} is wrong"


def _damaged_part(folder: Path) -> str | None:
    expected = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    found = {path.name for path in folder.glob(PARTS)}
    if odd := sorted(found ^ set(expected)):
        return f"{odd[0]} {'does not belong to it' if odd[0] in found else 'is missing'}"
    wrong = [name for name in sorted(found) if checksum(folder / name) != expected[name]]
    return f"the checksum of {wrong[0]} is wrong" if wrong else None


def steps_done(checkpoint: Path) -> int:
    """Returns the number of DAPO steps before a checkpoint, which its name contains."""
    steps = _steps(checkpoint)
    if steps is None:
        raise ValueError(f"{checkpoint} is not named step_<number>.ckpt, as checkpoints are.")
    return steps


def _steps(path: Path) -> int | None:
    match = re.fullmatch(r"step_(\d{6,})\.ckpt", path.name, re.ASCII)
    return int(match[1]) if match else None
