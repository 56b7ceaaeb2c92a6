"""Identifies the version of the code that makes a run."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).parents[2]
CHANGED = "+changes"


@cache
def code_version() -> str:
    """Returns the commit of the code, with `+changes` if the code differs from it. Outside a checkout, it returns the
    version of the package.

    Only tracked files of the code and the configuration are compared, because other files do not affect a run.
    """
    if not (_ROOT / ".git").exists():
        return f"version {version('dapo-lightning')}"
    try:
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "train.py", "conf", "dapo_lightning")
        return _git("rev-parse", "HEAD") + (CHANGED if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return f"version {version('dapo-lightning')}"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()
