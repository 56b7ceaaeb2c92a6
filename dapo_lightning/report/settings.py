"""The configuration of a run, compared with the defaults of its options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

import dapo_lightning
from dapo_lightning.utils.overrides import ORIGIN, leaves

CONF = Path(dapo_lightning.__file__).parent / "conf"
_OF_PLACE = {"run_folder", "resume", "checkpoint"}


def settings(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns every setting of a run: its name, its value, and whether it differs from the default, which is the
    default option of its group and the value in that option's file. Values that follow other settings do not count."""
    groups = _default_options()
    rows = []
    for group, option in config.get("choices", {}).items():
        default = groups.get(group)
        rows.append(_row(group, option, default, is_option=True, differs=option != default))
    defaults = leaves(_file("config"))
    for group, option in config.get("choices", {}).items():
        if option is not None and group not in ("experiment", "recipe"):
            for name in str(option).strip("[]").split(","):  # several loggers can be chosen together
                defaults |= leaves(_file(f"{group}/{name}"), group)
    plain = {name: value for name, value in config.items() if name not in (*ORIGIN, *_OF_PLACE)}
    for name, value in leaves(plain).items():
        default = defaults.get(name)
        follows = isinstance(default, str) and "${" in default
        known = name in defaults and not follows and not name.endswith("_target_")
        if not name.endswith("_target_"):
            rows.append(_row(name, value, default if known else None, False, known and not _same(value, default)))
    return rows


def _row(name: str, value: Any, default: Any, is_option: bool, differs: bool) -> dict[str, Any]:
    texts = ["null" if item is None else str(item) for item in (value, default)]
    return {"name": name, "value": texts[0], "default": texts[1], "option": is_option, "differs": differs}


def _same(value: Any, default: Any) -> bool:
    try:
        return bool(value == default or float(value) == float(default))  # YAML reads 1e-2 as text
    except (TypeError, ValueError):
        return str(value) == str(default)


def _default_options() -> dict[str, Any]:
    entries = (_file("config").get("defaults") or []) if (CONF / "config.yaml").is_file() else []
    return {
        name: f"[{','.join(option)}]" if isinstance(option, list) else option
        for entry in entries
        if isinstance(entry, dict)
        for name, option in entry.items()
    }


def _file(name: str) -> dict[str, Any]:
    path = CONF / f"{name}.yaml"
    if not re.fullmatch(r"[\w/.-]+", name) or ".." in name or not path.is_file():
        return {}
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
