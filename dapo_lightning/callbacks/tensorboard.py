"""A TensorBoard logger for runs that may be resumed."""

from __future__ import annotations

from lightning.pytorch.loggers import TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoard logger, which hides points after the checkpoint when a run is resumed."""

    def resume_after(self, last_step: int) -> None:
        """Hides what an earlier session logged after a step, because later steps will be repeated."""
        self._kwargs["purge_step"] = last_step + 1  # read by the SummaryWriter, which is created on first use
