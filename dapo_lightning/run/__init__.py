"""A run from its command line to its folder. This is the only room that uses Hydra.

The module can be called: `dapo_lightning.run(["num_steps=10"])` does the same in a notebook as the command in a shell.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dapo_lightning.run.cli import Result


class _CallableRoom(ModuleType):
    def __call__(self, overrides: Sequence[str] = ()) -> Result:
        """Runs an experiment in this process and returns its result. See `dapo_lightning.run.cli.run`."""
        from dapo_lightning.run.cli import run

        return run(overrides)


sys.modules[__name__].__class__ = _CallableRoom
