"""Reads JSON that a full disk, a loss of power or an editor may have damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def json_object(text: str) -> dict[str, Any]:
    """Returns the object that a text holds; empty if it holds anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_object(path: Path) -> dict[str, Any]:
    """Returns the object in a file; empty if there is no such file, or if it is damaged."""
    return json_object(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else {}
