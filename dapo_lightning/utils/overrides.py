"""Hydra overrides and nested settings in the form in which run folders, resuming and the study compare them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ORIGIN = ("choices", "overrides", "commits")
"""The keys of config.yaml that are not settings: the option of each group, the overrides, and the versions of the code
(more than one if the run was continued with another version)."""


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Turns `{"clip": {"upper": 1.28}}` into `{"clip.upper": 1.28}`."""
    if isinstance(value, Mapping) and value:
        return {name: leaf for key in value for name, leaf in leaves(value[key], f"{path}.{key}").items()}
    return {path.lstrip("."): value}


def override_key(override: str) -> str:
    """Returns `clip.upper` for `++clip.upper=1.4`."""
    return override.lstrip("+~").partition("=")[0]
