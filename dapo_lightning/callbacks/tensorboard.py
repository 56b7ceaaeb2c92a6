"""A TensorBoard logger for runs that may be resumed."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoard logger, which hides points after the checkpoint when a run is resumed."""

    def resume_after(self, last_step: int) -> None:
        """Hides what an earlier session logged after a step, because later steps will be repeated."""
        self._kwargs["purge_step"] = last_step + 1  # read by the SummaryWriter, which is created on first use


def summary_writers(trainer: L.Trainer) -> list[Any]:
    """Returns the SummaryWriters of this process; only the first rank has any."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]
