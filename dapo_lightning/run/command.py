"""The configuration that a command means: its own, or that of the run which it goes on with or evaluates.

With `train.py` the only file that knows Hydra.
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import Any, cast

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from dapo_lightning.callbacks.checkpoint import latest, steps_done
from dapo_lightning.run.checks import ConfigError
from dapo_lightning.run.folder import checkpoint_in, folder_name, read_config
from dapo_lightning.slurm import job as slurm
from dapo_lightning.utils.overrides import override_key
from dapo_lightning.utils.version import code_version

FROM_ITS_WEIGHTS = "policy=hub policy.name=<run folder>/policy policy.chat=<as before; false for policy=tiny>"


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
    of_that_run = [
        o for o in read_config(file.parent.parent)["overrides"] if override_key(o).partition(".")[0] not in dropped
    ]
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
    return {override_key(o) for o in overrides if override_key(o) in chosen} | {
        g for g in chosen if chosen[g] != default.get(g)
    }


def resumed(config: DictConfig) -> DictConfig:
    """The configuration of the run to resume, where it is now. `num_steps`, and the trainer that it runs on (another
    number of ranks trains the same), may be changed, and are remembered."""
    folder = Path(config.resume)
    checkpoint = checkpoint_in(folder)
    overrides = [override for override in HydraConfig.get().overrides.task if not override.startswith("resume=")]
    free = [
        o
        for o in overrides
        if override_key(o).split(".")[0] in ("num_steps", "trainer") and override_key(o) != "trainer.precision"
    ]
    refused = [override for override in overrides if override not in free]
    if refused:
        raise ConfigError(
            f"resume keeps the configuration of its run, so {' '.join(refused)} would have no effect: leave it out, "
            f"or start a new run with {FROM_ITS_WEIGHTS}. Only num_steps and the trainer, but for its precision, can "
            "be changed."
        )
    saved = OmegaConf.create(read_config(folder))
    if any(override_key(override) == "trainer" for override in free):
        saved.trainer = OmegaConf.merge(config.trainer, {"precision": saved.trainer.precision})
        free = [override for override in free if override_key(override) == "num_steps"]
    saved.merge_with(OmegaConf.from_dotlist(free), {"resume": str(folder)})
    if saved.num_steps < steps_done(checkpoint):
        raise ConfigError(f"num_steps={saved.num_steps}: {checkpoint} already holds {steps_done(checkpoint)} steps.")
    return saved


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


def options_of(hydra_config: DictConfig) -> dict[str, str]:
    """The option that was chosen of each config group; Hydra's own groups decide nothing that is learnt."""
    return {group: option for group, option in hydra_config.runtime.choices.items() if "hydra/" not in group}


def as_dict(config: DictConfig) -> dict[str, Any]:
    """Plain values, interpolations resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def in_sweep() -> bool:
    """Whether this is a job of `python train.py -m`."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def may_go_on() -> bool:
    """Whether the folder of the run may hold a part of it: a sweep can be repeated, a SLURM job requeued."""
    return in_sweep() or slurm.is_restarted()
