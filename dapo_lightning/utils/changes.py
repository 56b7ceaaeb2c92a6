"""The record of settings that were changed when a run was resumed: changes.jsonl in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dapo_lightning.utils.json_objects import json_object
from dapo_lightning.utils.overrides import ORIGIN, leaves

FILE = "changes.jsonl"
_OF_THE_SESSION = (*ORIGIN, "resume", "changes", "profile", "run_folder")


def record_changes(folder: Path, step: int, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Appends a line for each setting that differs: `step` (DAPO steps done before), `key`, `old` and `new`."""
    old, new = (leaves({k: v for k, v in one.items() if k not in _OF_THE_SESSION}) for one in (before, now))
    changed = [key for key in old | new if old.get(key) != new.get(key)]
    if changed:
        with (folder / FILE).open("a", encoding="utf-8") as file:
            for key in changed:
                file.write(json.dumps({"step": step, "key": key, "old": old.get(key), "new": new.get(key)}) + "\n")


def read_changes(folder: Path) -> list[dict[str, Any]]:
    """Returns the changes of a run, oldest first, without damaged lines."""
    path = folder / FILE
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        change = json_object(line)
        try:
            found.append(
                {"step": int(change["step"]), "key": str(change["key"]), "old": change["old"], "new": change["new"]}
            )
        except (ValueError, KeyError, TypeError):
            continue
    return found


def described(change: Mapping[str, Any]) -> str:
    """Returns a change in words."""
    old, new = ("null" if value is None else value for value in (change["old"], change["new"]))
    return f"{change['key']} was changed from {old} to {new} after step {change['step']}"
