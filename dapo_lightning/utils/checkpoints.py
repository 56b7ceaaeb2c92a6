"""Finds checkpoints by their names, without loading any of them and without importing torch."""

from __future__ import annotations

from pathlib import Path


def all_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step_*.ckpt"))


def latest(folder: Path) -> Path | None:
    """Returns the newest checkpoint in a folder, or None if there is none."""
    found = all_checkpoints(folder)
    return found[-1] if found else None


def steps_done(checkpoint: Path) -> int:
    """Returns the number of DAPO steps before a checkpoint, which its name contains."""
    return int(checkpoint.stem.removeprefix("step_"))
