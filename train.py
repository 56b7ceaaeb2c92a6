"""Runs an experiment: `python train.py loss=token_level clip.upper=1.28`."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import hydra
import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.plugins.environments import SLURMEnvironment
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.algorithm.kl import NoKL
from dapo_lightning.callbacks.checkpoint import AtomicCheckpointIO, latest, steps_done
from dapo_lightning.callbacks.metrics_file import MetricsFile
from dapo_lightning.draws.datamodule import PromptDataModule
from dapo_lightning.draws.length import LengthLimit
from dapo_lightning.draws.worker import RolloutWorker
from dapo_lightning.plan import cluster_of, known_config, plan
from dapo_lightning.run.checks import ConfigError, check, check_logps
from dapo_lightning.run.command import as_dict, in_sweep, may_go_on, of_run, with_origin
from dapo_lightning.run.folder import (
    alone_in,
    continuation,
    hyperparameters,
    result,
    save_config,
)
from dapo_lightning.run.session import evaluate, run
from dapo_lightning.slurm import job as slurm
from dapo_lightning.step.module import DAPOModule
from dapo_lightning.types import Generation
from dapo_lightning.utils.clock import Clock

log = logging.getLogger(__name__)

TECHNIQUES = tuple(field.name for field in fields(Algorithm))
HARMLESS = ("in eval mode", "LeafSpec", "before `optimizer.step", "does not have many workers", "sync_dist=True")


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent / "conf"), config_name="config")
def main(config: DictConfig) -> float:
    """Trains or evaluates, and returns the held-out avg@k at the end (what a sweeper may maximise)."""
    try:
        return job(config)
    except Exception as error:
        is_known = isinstance(error, ConfigError)
        if in_sweep():  # the other jobs go on; when all are done, Hydra raises the first of these errors
            log.error("%s failed: %s", config.run_folder, error, exc_info=not is_known)
        elif is_known:
            sys.exit(f"error: {error}")
        raise


def job(config: DictConfig) -> float:
    """A run or an evaluation; one of a sweep may be done already, or go on where it was interrupted."""
    for harmless in HARMLESS:  # the policy has no dropout; skipped steps are counted; metrics are of all ranks
        warnings.filterwarnings("ignore", message=f".*{harmless}")
    with one_sentence():
        if config.resume or config.checkpoint:
            config = of_run(config)
        if may_go_on() and not config.resume:
            with open_dict(config):
                config.update(continuation(as_dict(config)))
    came_to = result(as_dict(config)) if may_go_on() else None
    if came_to is not None:
        log.info("%s is done already", config.run_folder)
        return came_to
    if config.mode == "plan":
        with one_sentence():
            return planned(config)
    with alone_in(Path(config.run_folder)):
        with one_sentence():
            module, data, trainer = set_up(config)
        try:
            return (run if config.mode == "train" else evaluate)(as_dict(config), module, data, trainer)
        finally:
            module.worker.reward.close()


@contextmanager
def one_sentence() -> Iterator[None]:
    """Makes a ConfigError of what is wrong with the configuration; Hydra's wrapping hides the sentence that helps."""
    try:
        yield
    except InstantiationException as error:
        raise ConfigError(str(error.__cause__ or error)) from error
    except (ValueError, OmegaConfBaseException) as error:
        raise ConfigError(str(error)) from error


def set_up(config: DictConfig) -> tuple[DAPOModule, PromptDataModule, L.Trainer]:
    """Checks and builds everything; what is cheap comes first, the warm start of the policy last.

    Raises:
        ValueError: or Hydra's wrapping of one, with a sentence that names the key and the remedy.
    """
    config = with_origin(config)
    check(as_dict(config))
    folder = Path(config.run_folder)
    L.seed_everything(config.seed, verbose=False)
    trainer = build_trainer(config, latest(folder / "checkpoints") if config.resume else None)
    if trainer.is_global_zero and not config.resume and (folder / "config.yaml").exists():
        raise ConfigError(f"{folder} already holds a run: continue it with resume={folder}, or choose another folder.")
    if trainer.world_size > 1 and in_sweep() and not slurm.in_job():
        raise ConfigError(
            f"a sweep on this machine gives each run one process, but trainer.devices={config.trainer.devices} asks "
            f"for {trainer.world_size}: use trainer=single, start the runs one by one, or use hydra/launcher=slurm."
        )
    module, data = build(config)
    module.save_hyperparameters(hyperparameters(as_dict(config), TECHNIQUES))
    if trainer.is_global_zero:
        save_config(as_dict(config), folder)
    return module, data, trainer


def planned(config: DictConfig) -> float:
    """Prints what a run would need, and returns the seconds that a DAPO step takes at least."""
    check(as_dict(config))
    source = instantiate(config.policy)
    found = plan(
        as_dict(config), known_config(getattr(source, "name", "")) or source.config(), cluster_of(as_dict(config))
    )
    print(found)
    return sum(found.as_it_stands.seconds().values())


def build(config: DictConfig) -> tuple[DAPOModule, PromptDataModule]:
    """The module and the data module."""
    algorithm = Algorithm(**{name: instantiate(config[name]) for name in TECHNIQUES})
    if config.mode == "evaluate":
        algorithm = replace(algorithm, kl=NoKL())  # or a reference would be kept for nothing
    generation = Generation(config.max_new_tokens, config.temperature, config.top_p)
    try:
        evaluation = Generation(
            config.evaluation.max_new_tokens, config.evaluation.temperature, config.evaluation.top_p
        )
    except ValueError as error:
        raise ConfigError(f"evaluation.{error}") from None
    rollout, dataset, source = instantiate(config.rollout), instantiate(config.data), instantiate(config.policy)
    in_float32 = config.trainer.precision == "32-true" and source.dtype == "float32"
    logps_are_exact = in_float32 and rollout.exact_logps
    if config.mode == "train":
        check_logps(config.top_p, logps_are_exact, rollout.exact_logps, algorithm.correction.reweights)
    optimizer = instantiate(config.optimizer)
    optimizer([torch.nn.Parameter(torch.zeros(1))])  # a wrong option shows now, not after the policy is loaded
    codec = source.codec()
    longest = max(config.max_new_tokens, config.evaluation.max_new_tokens)
    data = PromptDataModule(
        dataset,
        codec.encode,
        LengthLimit(config.max_prompt_tokens, longest, codec.max_positions),
        num_prompts_per_step=config.num_prompts_per_step,
        num_steps=config.num_steps if config.mode == "train" else 0,
        num_validation_prompts=config.evaluation.num_prompts,
        seed=config.seed,
    )
    reward = instantiate(config.reward)
    reward.start()
    clock = Clock()
    with clock("warm_start"):
        policy = source.load(codec, dataset, Path("outputs/warm_start"))
    module = DAPOModule(
        RolloutWorker(policy, rollout, reward, config.seed, clock),
        algorithm,
        optimizer,
        generation,
        evaluation,
        num_completions=config.num_completions_per_prompt,
        num_gradient_steps=config.num_gradient_steps,
        micro_batch_tokens=config.micro_batch_tokens,
        max_gradient_norm=config.max_gradient_norm,
        num_warmup_steps=config.num_warmup_steps,
        num_evaluation_completions=config.evaluation.num_completions,
        logps_are_exact=logps_are_exact,
    )
    return module, data


def build_trainer(config: DictConfig, checkpoint: Path | None) -> L.Trainer:
    """Lightning's Trainer; one epoch of `num_steps` batches, each a DAPO step."""
    options = as_dict(config)["logger"]
    last_step = steps_done(checkpoint) if checkpoint else -1  # what was logged later is about to be measured again
    if config.resume and options.get("tensorboard"):
        options["tensorboard"]["purge_step"] = last_step + 1
    loggers = [logger for logger in instantiate(options).values() if logger]
    for logger in loggers:
        if config.resume and isinstance(logger, MetricsFile):
            logger.keep_until(last_step)
    callbacks = [callback for callback in instantiate(config.callbacks).values() if callback]
    side_by_side = in_sweep() and HydraConfig.get().runtime.choices["hydra/launcher"] != "basic"
    if side_by_side:  # their progress bars would write over each other
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    return L.Trainer(
        **instantiate(as_dict(config.trainer)),  # its strategy may be an object
        max_epochs=1,
        val_check_interval=min(config.evaluation.every, config.num_steps),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=loggers,
        callbacks=callbacks,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),  # or it adds its own
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        plugins=[AtomicCheckpointIO(), *([SLURMEnvironment(auto_requeue=False)] if slurm.in_job() else [])],
        default_root_dir=config.run_folder,
        enable_model_summary=False,
        inference_mode=False,  # FSDP2 keeps the buffers of its first gathering, and those must be fit for training
    )


if __name__ == "__main__":
    main()
