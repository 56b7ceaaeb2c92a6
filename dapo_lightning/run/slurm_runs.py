"""The runs of a sweep on SLURM before they are submitted: their folders, and which of them are finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from dapo_lightning.run.checks import check_tasks
from dapo_lightning.run.command import as_config_error, as_dict
from dapo_lightning.run.folder import continuation, finished_result


@dataclass(frozen=True)
class Run:
    """One run of the sweep: its number, its overrides, and its result if it is finished already."""

    number: int
    overrides: list[str]
    folder: str  # relative to that of the sweep
    num_steps: int
    result: float | None


def read_run(config: DictConfig, overrides: list[str], number: int, options: Mapping[str, Any]) -> Run:
    """Returns one run of a sweep.

    Args:
        config: of the run, with that of Hydra.
        options: of the launcher.

    Raises:
        ConfigError: if the run is refused.
    """
    if not OmegaConf.is_interpolation(config.trainer, "devices"):  # trainer=slurm takes them from SLURM
        check_tasks(config.trainer, options["tasks_per_node"], options["nodes"])
    with _of_run(config), open_dict(config), read_write(config.hydra):
        config.hydra.job.id, config.hydra.job.num = f"job_id_for_{number}", number
        subdir = str(config.hydra.sweep.subdir)
        folder = Path(str(config.hydra.sweep.dir)).absolute() / subdir
        config.hydra.runtime.output_dir = str(folder)
        result = _result_in(folder, config) if (folder / "summary.json").is_file() else None
    return Run(number, overrides, subdir, config.num_steps, result)


@contextmanager
def _of_run(config: DictConfig) -> Iterator[None]:
    """Lets interpolations refer to Hydra's configuration of one run in the block."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def _result_in(folder: Path, config: DictConfig) -> float | None:
    """Returns the result of a run that is finished; raises a ConfigError if it had other settings."""
    with as_config_error(), open_dict(config):
        config.run_folder = str(folder)
        if OmegaConf.is_interpolation(config.trainer, "devices"):
            config.trainer.devices = config.trainer.num_nodes = 1  # they do not affect the result
        plain = as_dict(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
        continuation(plain)
    return finished_result(plain)
