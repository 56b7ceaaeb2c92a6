"""Grading of hostile text in child processes. Nothing here imports torch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any


def load(path: str) -> Any:
    """Imports the object with a dotted path.

    Raises:
        ValueError: with the reason and the remedy.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except Exception as error:
        raise ValueError(
            f"cannot be imported ({type(error).__name__}: {error}). Give the dotted path of a callable, such as "
            f"my_module.my_reward, in a module that lies in {Path.cwd()} or on PYTHONPATH."
        ) from error
