"""The options of `hydra/launcher=slurm`, with their types."""

from __future__ import annotations

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf


@dataclass
class Options(SlurmQueueConf):
    """The options of `submitit_slurm` and those that conf/hydra/launcher/slurm.yaml adds."""

    python: str | None = None
    srun_args: list[str] = field(default_factory=list)
    wait: bool = True


ConfigStore.instance().store(group="hydra/launcher", name="dapo_slurm", node=Options(), provider="dapo_slurm")
