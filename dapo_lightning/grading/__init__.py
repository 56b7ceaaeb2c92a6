"""Grading of hostile text in child processes. Nothing here imports torch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any


def load(path: str) -> Any:
    """Imports the object with a dotted path, such as `module.function` or `module.Class.method`.

    Raises:
        ValueError: with the reason and the remedy.
    """
    module, _, name = path.rpartition(".")
    try:
        try:
            return getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):  # the module needs another one, which is missing
                raise
            return resolve_name(path)  # perhaps of something within a class
    except Exception as error:
        raise ValueError(
            f"cannot be imported ({type(error).__name__}: {error}). Give the dotted path of a callable, such as "
            f"my_module.my_reward, in a module that lies in {Path.cwd()} or on PYTHONPATH."
        ) from error
