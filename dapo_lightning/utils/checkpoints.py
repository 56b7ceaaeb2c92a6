"""The names of checkpoint files: what a folder of checkpoints says without loading any (nor torch)."""

from __future__ import annotations

from pathlib import Path


def all_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step_*.ckpt"))


def latest(folder: Path) -> Path | None:
    """The newest checkpoint in a folder, or None if there is none."""
    found = all_checkpoints(folder)
    return found[-1] if found else None


def steps_done(checkpoint: Path) -> int:
    """The number of DAPO steps that a checkpoint of this name holds."""
    return int(checkpoint.stem.removeprefix("step_"))
