"""Runs an experiment: `python train.py loss=token_level clip.upper=1.28`. The only file that knows Hydra."""

from __future__ import annotations

import datetime
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import hydra
import lightning as L
import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.plugins.environments import SLURMEnvironment
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dapo_lightning import slurm
from dapo_lightning.algorithm import Algorithm
from dapo_lightning.callbacks.checkpoint import AtomicCheckpointIO, latest, steps_done
from dapo_lightning.checks import ConfigError, check, check_held_out, check_logps
from dapo_lightning.clock import Clock
from dapo_lightning.data.datamodule import PromptDataModule
from dapo_lightning.data.fit import Room
from dapo_lightning.logger import MetricsFile
from dapo_lightning.module import DAPOModule
from dapo_lightning.plan import cluster_of, known_config, plan
from dapo_lightning.run_folder import (
    checkpoint_in,
    continuation,
    folder_name,
    hyperparameters,
    read_config,
    result,
    save_config,
)
from dapo_lightning.sampler import GroupSampler
from dapo_lightning.session import evaluate, run
from dapo_lightning.study.arms import key
from dapo_lightning.types import Generation
from dapo_lightning.version import code_version

log = logging.getLogger(__name__)


def run_folder(resume: str | None, mode: str, experiment: str | None) -> str:
    """A new folder for a new run, the old one for a run that is resumed; Hydra makes it before anything else happens,
    so a folder without a run must be refused here."""
    if resume:
        try:
            checkpoint_in(Path(resume))
        except ConfigError as error:
            sys.exit(f"error: {error}")
    kind = experiment or "custom" if mode == "train" else mode
    if slurm.in_job():  # the same for all tasks, and when it is requeued
        return resume or f"outputs/{kind}/slurm_{os.environ['SLURM_JOB_ID']}"
    return resume or f"outputs/{kind}/{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"


OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True)
OmegaConf.register_new_resolver("folder_name", folder_name)
OmegaConf.register_new_resolver("fifth", lambda number: max(1, number // 5))

TECHNIQUES = ("clip", "loss", "overlong", "sampling", "advantage", "kl", "correction")
HARMLESS = ("in eval mode", "LeafSpec", "before `optimizer.step", "does not have many workers", "sync_dist=True")
FROM_ITS_WEIGHTS = "policy=hub policy.name=<run folder>/policy policy.chat=<as before; false for policy=tiny>"


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
    with one_sentence():
        if config.mode == "plan":
            return planned(config)
        module, data, trainer = set_up(config)
    try:
        return (run if config.mode == "train" else evaluate)(as_dict(config), module, data, trainer)
    finally:
        module.sampler.reward.close()


def in_sweep() -> bool:
    """Whether this is a job of `python train.py -m`."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def may_go_on() -> bool:
    """Whether the folder of the run may hold a part of it: a sweep can be repeated, a SLURM job requeued."""
    return in_sweep() or slurm.is_restarted()


@contextmanager
def one_sentence() -> Iterator[None]:
    """Makes a ConfigError of what is wrong with the configuration; Hydra's wrapping hides the sentence that helps."""
    try:
        yield
    except InstantiationException as error:
        raise ConfigError(str(error.__cause__ or error)) from error
    except (ValueError, OmegaConfBaseException) as error:
        raise ConfigError(str(error)) from error


def of_run(config: DictConfig) -> DictConfig:
    """The configuration of the run that is to be continued or evaluated, as it may be changed."""
    if config.resume and (config.checkpoint or config.mode != "train"):
        raise ConfigError("resume continues training: leave out checkpoint and mode, or use mode=evaluate checkpoint=.")
    if config.resume:
        return resumed(config)
    if config.mode != "evaluate":
        raise ConfigError(
            f"checkpoint={config.checkpoint} is for mode=evaluate. To go on with a run, use resume=<run folder>; to "
            f"start from its weights, {FROM_ITS_WEIGHTS}."
        )
    return evaluated(config)


def evaluated(config: DictConfig) -> DictConfig:
    """The configuration of the run that `checkpoint` belongs to, with what is given now on top.

    A group named now starts afresh: what the old run, or its recipe, set in it belongs to the option chosen then.
    """
    given = Path(config.checkpoint)
    file = latest(given / "checkpoints") if given.is_dir() else given
    if file is None or not file.is_file() or not (file.parent.parent / "config.yaml").is_file():
        raise ConfigError(
            f"checkpoint={given}: is neither the folder of a run nor a .ckpt file inside one. "
            "For a policy folder use policy=hub policy.name=<folder>."
        )
    now = list(HydraConfig.get().overrides.task)
    named = groups_named(now)
    dropped = {"run_folder", "mode", *named}
    of_that_run = [o for o in read_config(file.parent.parent)["overrides"] if key(o).partition(".")[0] not in dropped]
    overrides = [*of_that_run, *now]
    composed = compose("config", overrides=overrides, return_hydra_config=True)
    with open_dict(composed):
        composed.update({group: config[group] for group in named if group in config})
        composed.choices, composed.overrides = options_of(composed.pop("hydra")), overrides
        composed.checkpoint = str(file)
        if "warm_start" in composed.policy:
            composed.policy.warm_start = None  # its weights are about to be replaced
    return composed


def groups_named(overrides: list[str]) -> set[str]:
    """The config groups for which an option is chosen, by name or by the recipe or experiment that is named."""
    chosen = HydraConfig.get().runtime.choices
    default = compose("config", return_hydra_config=True).hydra.runtime.choices
    return {key(o) for o in overrides if key(o) in chosen} | {g for g in chosen if chosen[g] != default.get(g)}


def resumed(config: DictConfig) -> DictConfig:
    """The configuration of the run to resume, where it is now. `num_steps`, and the trainer that it runs on (another
    number of ranks trains the same), may be changed, and are remembered."""
    folder = Path(config.resume)
    checkpoint = checkpoint_in(folder)
    overrides = [override for override in HydraConfig.get().overrides.task if not override.startswith("resume=")]
    free = [o for o in overrides if key(o).split(".")[0] in ("num_steps", "trainer") and key(o) != "trainer.precision"]
    refused = [override for override in overrides if override not in free]
    if refused:
        raise ConfigError(
            f"resume keeps the configuration of its run, so {' '.join(refused)} would have no effect: leave it out, "
            f"or start a new run with {FROM_ITS_WEIGHTS}. Only num_steps and the trainer, but for its precision, can "
            "be changed."
        )
    saved = OmegaConf.create(read_config(folder))
    if any(key(override) == "trainer" for override in free):
        saved.trainer = OmegaConf.merge(config.trainer, {"precision": saved.trainer.precision})
        free = [override for override in free if key(override) == "num_steps"]
    saved.merge_with(OmegaConf.from_dotlist(free), {"resume": str(folder)})
    if saved.num_steps < steps_done(checkpoint):
        raise ConfigError(f"num_steps={saved.num_steps}: {checkpoint} already holds {steps_done(checkpoint)} steps.")
    return saved


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
    module, data = build(config)
    module.save_hyperparameters(hyperparameters(as_dict(config), TECHNIQUES))
    if trainer.is_global_zero:
        save_config(as_dict(config), folder)
    return module, data, trainer


def planned(config: DictConfig) -> float:
    """Prints what a run would need, and returns the seconds that a DAPO step takes at least."""
    check(as_dict(config))
    source = instantiate(config.policy)
    found = plan(as_dict(config), known_config(getattr(source, "name", "")) or source.config(), cluster_of(as_dict(config)))
    print(found)
    return sum(found.as_it_stands.seconds().values())


def build(config: DictConfig) -> tuple[DAPOModule, PromptDataModule]:
    """The module and the data module."""
    algorithm = Algorithm(**{name: instantiate(config[name]) for name in TECHNIQUES})
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
        Room(config.max_prompt_tokens, longest, codec.max_positions),
        algorithm.sampling,
        num_prompts_per_step=config.num_prompts_per_step,
        num_steps=config.num_steps if config.mode == "train" else 0,
        num_validation_prompts=config.evaluation.num_prompts,
        seed=config.seed,
    )
    check_held_out(data.counts["evaluated"], as_dict(config)["trainer"])
    reward = instantiate(config.reward)
    reward.start()
    clock = Clock()
    with clock("warm_start"):
        policy = source.load(codec, dataset, Path("outputs/warm_start"))
    module = DAPOModule(
        GroupSampler(policy, rollout, reward, config.seed, clock),
        algorithm,
        optimizer,
        generation,
        num_completions=config.num_completions_per_prompt,
        num_gradient_steps=config.num_gradient_steps,
        micro_batch_tokens=config.micro_batch_tokens,
        max_gradient_norm=config.max_gradient_norm,
        num_warmup_steps=config.num_warmup_steps,
        evaluation=evaluation,
        num_evaluation_completions=config.evaluation.num_completions,
        logps_are_exact=logps_are_exact,
    )
    return module, data


def build_trainer(config: DictConfig, checkpoint: Path | None) -> L.Trainer:
    """Lightning's Trainer; one epoch of `num_steps` batches, each a DAPO step."""
    options = as_dict(config)["logger"]
    last_step = steps_done(checkpoint) if checkpoint else -1  # what was logged later is about to be measured again
    if config.resume and "tensorboard" in options:
        options["tensorboard"]["purge_step"] = last_step + 1
    loggers = list(instantiate(options).values())
    for logger in loggers:
        if config.resume and isinstance(logger, MetricsFile):
            logger.keep_until(last_step)
    callbacks = instantiate(config.callbacks)
    side_by_side = in_sweep() and HydraConfig.get().runtime.choices["hydra/launcher"] != "basic"
    if side_by_side:  # their progress bars would write over each other
        callbacks.pop("progress", None)
    return L.Trainer(
        **instantiate(as_dict(config.trainer)),  # its strategy may be an object
        max_epochs=1,
        val_check_interval=min(config.evaluation.every, config.num_steps),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=loggers,
        callbacks=list(callbacks.values()),
        enable_progress_bar=not side_by_side,
        plugins=[AtomicCheckpointIO(), *([SLURMEnvironment(auto_requeue=False)] if slurm.in_job() else [])],
        default_root_dir=config.run_folder,
        enable_model_summary=False,
    )


def options_of(hydra_config: DictConfig) -> dict[str, str]:
    """The option that was chosen of each config group; Hydra's own groups decide nothing that is learnt."""
    return {group: option for group, option in hydra_config.runtime.choices.items() if "hydra/" not in group}


def as_dict(config: DictConfig) -> dict[str, Any]:
    """Plain values, interpolations resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def with_origin(config: DictConfig) -> DictConfig:
    """The configuration with what it came from: the options and overrides of the run that is resumed or evaluated, if
    there is one, and all versions of the code that had a part in it."""
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    origin = OmegaConf.create({"choices": options_of(hydra_config), "overrides": overrides, "commits": []})
    config = cast(DictConfig, OmegaConf.merge(origin, config))
    if code_version() not in config.commits:
        config.commits.append(code_version())
    return config


if __name__ == "__main__":
    main()
