"""TensorBoard files that fit together when a run is resumed."""

from __future__ import annotations

from lightning.pytorch.loggers import TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Lightning's logger; when a run is resumed, the points of later steps disappear from its charts."""

    def resume_after(self, last_step: int) -> None:
        """Drops what an earlier session logged after a step: those steps are about to be repeated."""
        self._kwargs["purge_step"] = last_step + 1  # of SummaryWriter, which is made when it is first needed
