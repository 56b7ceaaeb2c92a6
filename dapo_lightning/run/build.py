"""Turns a checked configuration into the objects of a run: module, data module and trainer."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.algorithm.kl import NoKL
from dapo_lightning.data import Dataset
from dapo_lightning.draws.datamodule import HeldOutData, PromptDataModule
from dapo_lightning.draws.length import LengthLimit
from dapo_lightning.draws.worker import RolloutWorker
from dapo_lightning.environment import Environment
from dapo_lightning.policy import Policy, PolicySource
from dapo_lightning.policy.codec import Codec
from dapo_lightning.reward import Reward
from dapo_lightning.rollout.stop import StopTexts
from dapo_lightning.run.checks import check, check_engines, check_logps, check_options, check_partial
from dapo_lightning.run.command import as_dict, in_sweep, record_origin, resume_command
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.folder import hyperparameters, read_config, save_config
from dapo_lightning.run.held_out_sets import held_out_sets
from dapo_lightning.run.objects import made
from dapo_lightning.run.targets import check_targets
from dapo_lightning.run.trainer import build_trainer
from dapo_lightning.slurm import job as slurm
from dapo_lightning.step.checkpoint import not_finite
from dapo_lightning.step.evaluation import HeldOut
from dapo_lightning.step.module import DAPOModule
from dapo_lightning.step.offload import with_offloaded_states
from dapo_lightning.types import Generation
from dapo_lightning.utils.changes import record_changes
from dapo_lightning.utils.checkpoints import latest, newest_whole, steps_done
from dapo_lightning.utils.clock import Clock
from dapo_lightning.utils.options import option_attribute

log = logging.getLogger(__name__)

Config = Mapping[str, Any]
TECHNIQUES = tuple(field.name for field in fields(Algorithm))


def set_up(config: DictConfig) -> tuple[DAPOModule, PromptDataModule, L.Trainer]:
    """Checks the configuration and builds everything: cheap parts first, the warm start of the policy last.

    Raises:
        ValueError: if a setting is refused; it may be wrapped by Hydra.
    """
    config = record_origin(config)
    check(as_dict(config))
    check_targets(as_dict(config))
    folder = Path(config.run_folder)
    L.seed_everything(config.seed, verbose=False)
    checkpoint, damaged = newest_whole(folder / "checkpoints") if config.resume else (None, [])
    trainer = build_trainer(config, checkpoint)
    for phrase in damaged if trainer.is_global_zero else []:
        log.warning("%s: the run continues from %s", phrase, checkpoint)
    if trainer.is_global_zero and not config.resume and (folder / "config.yaml").exists():
        if latest(folder / "checkpoints") or (folder / "summary.json").exists():
            raise ConfigError(
                f"{folder} already holds a run: continue it with {resume_command(folder)}, or choose another folder "
                "with run_folder=<folder>."
            )
        log.warning("%s contains a run that ended before its first checkpoint: it starts again", folder)
    if trainer.world_size > 1 and in_sweep() and not slurm.in_job():
        raise ConfigError(
            f"a sweep on this machine starts one process for each run, but trainer.devices={config.trainer.devices} "
            f"needs {trainer.world_size}: use trainer=single, start the runs one by one, or use hydra/launcher=slurm."
        )
    check_engines(config.rollout.get("tensor_parallel_size", 1), trainer.num_devices)
    module, data = build(config)
    module.save_hyperparameters(hyperparameters(as_dict(config), TECHNIQUES))
    if trainer.is_global_zero:
        if checkpoint is not None:
            record_changes(folder, steps_done(checkpoint), read_config(folder), as_dict(config))
        save_config(as_dict(config), folder)
    return module, data, trainer


def build(config: DictConfig) -> tuple[DAPOModule, PromptDataModule]:
    """Builds the module and the data module."""
    settings = as_dict(config)
    check_options(settings)
    algorithm = Algorithm(**{name: made(settings[name]) for name in TECHNIQUES})
    if config.mode == "evaluate":
        algorithm = replace(algorithm, kl=NoKL())  # an evaluation needs no reference
    generation = Generation(config.max_new_tokens, config.temperature, config.top_p, config.top_k, config.min_p)
    sets = held_out_sets(settings)
    evaluations = evaluations_of(settings, sets)
    rollout, dataset, source = (made(settings[name]) for name in ("rollout", "data", "policy"))
    in_float32 = config.trainer.precision == "32-true" and source.dtype == "float32"
    samples_in_float32 = getattr(rollout, "dtype", None) in (None, "float32")
    logps_are_exact = in_float32 and samples_in_float32 and rollout.exact_logps
    if config.mode == "train":
        reweighting = [group for group, option in algorithm.options.items() if getattr(option, "reweights", False)]
        check_logps(generation, logps_are_exact, rollout.exact_logps, reweighting)
    optimizer, schedule = made(settings["optimizer"]), made(settings["schedule"])
    schedule(optimizer([torch.nn.Parameter(torch.zeros(1))]))  # a wrong option is reported before the policy is loaded
    if config.trainer.get("offload_optimizer"):
        optimizer = with_offloaded_states(optimizer)
    codec = source.codec()
    stop = StopTexts(codec.tokenizer, config.stop) if config.stop else None
    generation = replace(generation, stop=stop)
    evaluations = {name: replace(one, stop=stop) for name, one in evaluations.items()}
    environment = made(settings["environment"])
    environment.start(codec)
    check_partial(settings, environment.num_turns)
    limit = length_limit(settings, codec, environment, (generation, *evaluations.values()))
    rewards, data = _rewards_and_data(settings, sets, dataset, codec, limit)
    reach = data.longest_prompt + limit.after_prompt
    getattr(rollout, "check_reach", lambda _: None)(reach)
    clock = Clock()
    with clock("load"):
        policy = _policy(settings, source, codec, dataset, reach)
    worker = RolloutWorker(policy, rollout, rewards[""], config.seed, clock, environment)
    module = made(settings["module"])(
        worker=worker,
        algorithm=algorithm,
        optimizer=optimizer,
        schedule=schedule,
        generation=generation,
        evaluation=evaluations[""],
        held_out_sets={
            name: HeldOut(
                replace(worker, reward=rewards[name]), evaluations[name], one["num_completions"], _steps(settings, one)
            )
            for name, one in sets.items()
        },
        logps_are_exact=logps_are_exact,
    )
    return module, data


def _steps(settings: Config, of_set: Config) -> Collection[int] | None:
    """The steps after which a set is evaluated: the multiples of `every` and the last one; None means all evaluations,
    as if it is that of the other sets or nothing is trained."""
    if settings["mode"] != "train" or of_set["every"] == settings["evaluation"]["every"]:
        return None
    return {*range(0, settings["num_steps"], of_set["every"]), settings["num_steps"]}


def _rewards_and_data(
    settings: Config, sets: Mapping[str, Config], dataset: Dataset, codec: Codec, limit: LengthLimit
) -> tuple[dict[str, Reward], PromptDataModule]:
    """The started rewards of training ("") and of each held-out set, and the data that they can use."""
    reward = made(settings["reward"])
    rewards = {
        name: reward if one["reward"] is settings["reward"] else made(one["reward"]) for name, one in sets.items()
    } | {"": reward}
    different = list({id(one): one for one in rewards.values()}.values())
    try:
        for one in different:
            one.start()
        data = made(settings["datamodule"])(
            dataset=dataset,
            encode=codec.encode,
            length_limit=limit,
            num_steps=settings["num_steps"] if settings["mode"] == "train" else 0,  # a resumed run may be given more
            usable=reward.usable,
            sets={
                name: HeldOutData(
                    dataset if one["data"] is settings["data"] else made(one["data"]),
                    one["num_prompts"],
                    rewards[name].usable,
                )
                for name, one in sets.items()
            },
        )
    except BaseException:
        for one in different:
            one.close()
        raise
    return rewards, data


def _policy(settings: Config, source: PolicySource, codec: Codec, dataset: Dataset, reach: int) -> Policy:
    """Loads the policy.

    Raises:
        ConfigError: if its weights are not finite.
    """
    policy = source.load(
        codec,
        dataset,
        Path("outputs/warm_start"),
        reach=reach,
        sharded=option_attribute(settings["trainer"]["strategy"], "shards_weights"),
    )
    policy = replace(policy, recomputes=bool(settings["trainer"].get("activation_checkpointing")))
    if policy.shards is None and (bad := not_finite(policy.model.state_dict())) is not None:
        raise ConfigError(f"policy: its weights are not finite ({bad}), so it cannot be used. Choose another policy.")
    return policy


def length_limit(
    settings: Config, codec: Codec, environment: Environment, generations: Iterable[Generation]
) -> LengthLimit:
    """The limit that suits training and all held-out sets."""
    return LengthLimit(
        settings["max_prompt_tokens"],
        max(one.max_new_tokens for one in generations),
        codec.max_positions,
        max_message_tokens=(environment.num_turns - 1) * environment.max_message_tokens,
    )


def evaluations_of(settings: Config, sets: Mapping[str, Config]) -> dict[str, Generation]:
    """How completions of each held-out set are sampled; "" is the one that belongs to the training data.

    Raises:
        ConfigError: naming the key.
    """
    of_sets = {name: _generation(one, f"evaluation.sets.{name}.") for name, one in sets.items()}
    return of_sets | {"": _generation(settings["evaluation"], "evaluation.")}


def _generation(settings: Mapping[str, Any], path: str) -> Generation:
    """How an evaluation samples; an error names its key."""
    keys = ("max_new_tokens", "temperature", "top_p", "top_k", "min_p")
    try:
        return Generation(*(settings[key] for key in keys))
    except ValueError as error:
        raise ConfigError(f"{path}{error}") from None
