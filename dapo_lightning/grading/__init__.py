"""Grading of hostile text in child processes. Nothing here imports torch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any


def load(path: str) -> Any:
    """Imports the object with a dotted path, such as `module.function` or `module.Class.method`.

    Raises:
        ValueError: with the reason and the remedy.
    """
    try:
        found, names = _module_of(path)
        for name in names:
            found = getattr(found, name)
        return found
    except Exception as error:
        raise ValueError(
            f"cannot be imported ({type(error).__name__}: {error}). Give the dotted path of a callable, such as "
            f"my_module.my_reward, in a module that lies in {Path.cwd()} or on PYTHONPATH."
        ) from error


def _module_of(path: str) -> tuple[Any, list[str]]:
    """Imports the longest beginning of a path that is a module. Returns it with the names that follow."""
    module, _, name = path.rpartition(".")
    try:
        return import_module(module), [name]
    except ModuleNotFoundError as error:
        is_missing = error.name is not None and f"{module}.".startswith(f"{error.name}.")  # not a module that it needs
        if not is_missing or "." not in module:
            raise
        try:
            found, names = _module_of(module)
        except ModuleNotFoundError:
            raise error from None
        return found, [*names, name]
