"""MLflow for a run that may be resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from mlflow.tracking import MlflowClient

TAG = "dapo_lightning.id"


class MLflow(MLFlowLogger):
    """Lightning's MLFlowLogger with a database in the run folder. A later session finds its run by a tag, because
    MLflow chooses the ids of runs itself.

    Args:
        folder: the folder of the run; `mlflow.db` and the tables, in `mlflow/`, are written into it.
        experiment: the name of MLflow's experiment, which groups runs.
        id: of the run, in a tag.
        tracking_uri: of a server; None writes to the folder.
    """

    def __init__(self, folder: str, experiment: str, name: str, id: str, tracking_uri: str | None = None):
        local = Path(folder).absolute()
        super().__init__(
            experiment_name=experiment,
            run_name=name,
            tracking_uri=tracking_uri or f"sqlite:///{local}/mlflow.db",
            artifact_location=None if tracking_uri else f"{local}/mlflow",
            tags={TAG: id},
        )
        self._tag = id

    @property
    def experiment(self) -> MlflowClient:
        """The client; with the run of an earlier session, if there is one."""
        if getattr(rank_zero_only, "rank", 0) == 0 and self._run_id is None:
            known = self._mlflow_client.get_experiment_by_name(self._experiment_name)
            ids = [known.experiment_id] if known else []
            found = self._mlflow_client.search_runs(ids, f"tags.`{TAG}` = '{self._tag}'", max_results=1) if ids else []
            if found:
                self._run_id = found[0].info.run_id
                self._mlflow_client.update_run(self._run_id, status="RUNNING")
        return super().experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Logs those that a resumed run has not changed; MLflow refuses a second value for a parameter."""
        before = self.experiment.get_run(self.run_id).data.params
        super().log_hyperparams({name: value for name, value in params.items() if name not in before})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs metrics under names without `@`, which MLflow does not allow: `validation/avg_at_8`."""
        super().log_metrics({name.replace("@", "_at_"): value for name, value in metrics.items()}, step)

    @rank_zero_only
    def log_table(self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]], step: int) -> None:
        """Writes the artifact `<key>/step_<step>.json`; a repeated step replaces it."""
        path = f"{key}/step_{step:06d}.json"
        if path in {
            file.path for file in self.experiment.list_artifacts(self.run_id, key)
        }:  # MLflow would append to it
            self.experiment.log_dict(self.run_id, {"columns": list(columns), "data": list(data)}, path)
        else:
            table = {name: [row[i] for row in data] for i, name in enumerate(columns)}
            self.experiment.log_table(self.run_id, table, path)

    def finalize(self, status: str = "success") -> None:
        """Does nothing, because Lightning also calls it after the evaluation before the training; see `close`."""

    @rank_zero_only
    def close(self, is_finished: bool) -> None:
        if self._initialized:
            self._mlflow_client.set_terminated(self._run_id, "FINISHED" if is_finished else "FAILED")
