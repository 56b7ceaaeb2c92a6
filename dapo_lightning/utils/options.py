"""Reads class attributes of the options of a configuration, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any


def option_attribute(option: object, name: str, default: Any = False) -> Any:
    """Returns a class attribute of the class that an option names in `_target_`.

    Args:
        option: a config group, or a plain value such as `trainer.strategy=ddp`, which has no class.
        default: for plain values and for classes without the attribute.
    """
    return getattr(resolve_name(option["_target_"]), name, default) if isinstance(option, Mapping) else default


def target_of(option: type) -> str:
    """Returns the `_target_` that names a class."""
    return f"{option.__module__}.{option.__qualname__}"
