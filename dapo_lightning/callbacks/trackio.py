"""Trackio for a run that may be resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import trackio
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only


class Trackio(Logger):
    """A logger that writes to Trackio's folder on this machine, or to a Space of the Hugging Face hub.

    Args:
        name: of the run. A later session with the same name continues the run.
        space_id: of a Space; None writes to this machine only (environment variable TRACKIO_DIR: to which folder).
        options: further arguments of `trackio.init`.
    """

    def __init__(self, project: str, name: str, group: str, space_id: str | None = None, **options: Any):
        super().__init__()
        self._options = {"auto_log_cpu": False, "auto_log_gpu": False, "embed": False, **options}
        self._options |= {"project": project, "name": name, "group": group, "space_id": space_id, "resume": "allow"}
        self._run: trackio.Run | None = None

    @property
    def name(self) -> str:
        return self._options["project"]

    @property
    def version(self) -> str:
        return self._options["name"]

    @property
    @rank_zero_experiment
    def experiment(self) -> trackio.Run:
        if self._run is None:
            self._run = trackio.init(**self._options)
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Adds to the configuration of the run, which Trackio writes with the first metrics."""
        self.experiment.config.update(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step)

    @rank_zero_only
    def log_table(self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]], step: int) -> None:
        self.experiment.log({key: trackio.Table(columns=list(columns), data=[list(row) for row in data])}, step)

    @rank_zero_only
    def close(self, is_finished: bool) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None
