"""Builds Lightning's Trainer with the loggers and callbacks of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.plugins.environments import SLURMEnvironment
from omegaconf import DictConfig

from dapo_lightning.callbacks.checkpoint import AtomicCheckpointIO
from dapo_lightning.callbacks.profile import ProfileStep
from dapo_lightning.run.command import as_dict, in_sweep
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.objects import made
from dapo_lightning.run.targets import OF_THE_RUN
from dapo_lightning.slurm import job as slurm
from dapo_lightning.utils.checkpoints import steps_done


def build_trainer(config: DictConfig, checkpoint: Path | None) -> L.Trainer:
    """Builds Lightning's Trainer for one epoch of `num_steps` batches, each of which is a DAPO step."""
    settings = as_dict(config)
    loggers = [logger for logger in made(settings.get("logger") or {}).values() if logger]
    for logger in loggers:
        if hasattr(logger, "resume_after"):
            logger.resume_after(steps_done(checkpoint) if checkpoint else -1)
    callbacks = [callback for callback in made(settings["callbacks"]).values() if callback]
    if config.profile:
        callbacks.append(ProfileStep(Path(config.run_folder) / "profile"))
    if in_sweep() and HydraConfig.get().runtime.choices["hydra/launcher"] != "basic":  # bars of parallel runs would mix
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    arguments: dict[str, Any] = {
        "max_epochs": 1,
        "val_check_interval": min(config.evaluation.every, config.num_steps),
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "logger": loggers,
        "callbacks": callbacks,
        "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in callbacks),  # or it adds one
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "plugins": [AtomicCheckpointIO(), *([SLURMEnvironment(auto_requeue=False)] if slurm.in_job() else [])],
        "default_root_dir": config.run_folder,
        "enable_model_summary": False,
        "inference_mode": False,  # FSDP2 reuses the buffers of its first all-gather in training
    }
    taken = sorted(arguments.keys() & config.trainer.keys())
    if taken:
        raise ConfigError(f"trainer.{taken[0]} is set by the run itself: leave it out. (num_steps sets its length.)")
    of_lightning = {key: value for key, value in settings["trainer"].items() if key not in OF_THE_RUN}
    try:
        return made(of_lightning, **arguments)  # the strategy may be an object
    except InstantiationException as error:
        given = ", ".join(f"{key}={value}" for key, value in config.trainer.items() if key != "_target_")
        raise ConfigError(f"trainer: Lightning refused {given}: {error.__cause__ or error}") from error
