"""The numbers that the options of the algorithm can be given, whichever of them a run chooses."""

from __future__ import annotations

from pathlib import Path

import yaml  # type: ignore[import-untyped]

CONF = Path(__file__).parents[1] / "conf"


def numbers_of_options() -> list[str]:
    """Keys such as `clip.upper` of every option in conf/ whose class is in `dapo_lightning.algorithm`: values that are
    numbers, or that are computed from others."""
    found = set()
    for path in CONF.glob("*/*.yaml"):
        option = yaml.safe_load(path.read_text(encoding="utf-8"))
        if str(option.get("_target_", "")).startswith("dapo_lightning.algorithm."):
            numbers = (name for name, value in option.items() if type(value) in (int, float) or "${" in str(value))
            found |= {f"{path.parent.name}.{name}" for name in numbers}
    return sorted(found)
