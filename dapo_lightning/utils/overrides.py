"""Hydra overrides and nested settings in the form in which run folders, resuming and the study compare them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ORIGIN = ("choices", "overrides", "commits")
"""The keys of config.yaml that are not settings: the option of each group, the overrides, and the versions of the code
(more than one if the run was continued with another version)."""

FOLDERS = ("resume", "checkpoint", "run_folder", "hydra.run.dir", "hydra.sweep.dir")
"""The keys whose values are folders of results. Other paths belong to objects, which expand `~` themselves."""


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Turns `{"clip": {"upper": 1.28}}` into `{"clip.upper": 1.28}`."""
    if isinstance(value, Mapping) and value:
        return {name: leaf for key in value for name, leaf in leaves(value[key], f"{path}.{key}").items()}
    return {path.lstrip("."): value}


def every_value(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields all values with dotted keys; unlike in `leaves`, the items of lists are values of their own, with numbers
    as keys."""
    if isinstance(value, Mapping | list):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from every_value(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Changes every text in mappings and lists, but not the keys."""
    if isinstance(value, Mapping):
        return {key: with_texts(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [with_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def override_key(override: str) -> str:
    """Returns `clip.upper` for `++clip.upper=1.4`."""
    return override.lstrip("+~").partition("=")[0]


def with_home(override: str) -> str:
    """Returns `resume=/home/me/run` for `resume=~/run`. Shells do not expand a tilde after an equals sign, and Hydra
    cannot parse it without quotes. A tilde in quotes may be text, so it is expanded only for keys in FOLDERS."""
    key, equals, value = override.partition("=")
    is_path = value.startswith("~/") or (override_key(override) in FOLDERS and value[1:].startswith("~/"))
    return f"{key}{equals}{value.replace('~', str(Path.home()), 1)}" if is_path else override
