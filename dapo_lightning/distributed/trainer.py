"""Lightning's Trainer with a limit on the time that ranks wait for each other."""

from __future__ import annotations

import inspect
from datetime import timedelta
from functools import wraps
from typing import Any

import lightning as L

_ARGUMENTS = inspect.signature(L.Trainer)
_TIMEOUT = inspect.Parameter("timeout_minutes", inspect.Parameter.KEYWORD_ONLY, annotation=float)


class Trainer(L.Trainer):
    """Takes the arguments of Lightning's Trainer and one more.

    Args:
        timeout_minutes: how long a rank waits for the others, for example while the first rank writes a checkpoint,
            before the run fails.

    Raises:
        ValueError: if the strategy has no such limit, because it uses a single process.
    """

    __signature__ = _ARGUMENTS.replace(parameters=[*_ARGUMENTS.parameters.values(), _TIMEOUT])

    @wraps(L.Trainer.__init__)  # type: ignore[misc]
    def __init__(self, *, timeout_minutes: float, **arguments: Any):
        super().__init__(**arguments)
        if not hasattr(self.strategy, "_timeout"):  # DDP and FSDP2 have it, but Lightning has no argument for it
            raise ValueError(f"{type(self.strategy).__name__} has no timeout. Use trainer=single, ddp or fsdp2.")
        self.strategy._timeout = timedelta(minutes=timeout_minutes)
