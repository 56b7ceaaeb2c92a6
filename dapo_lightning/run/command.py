"""Loads the configuration of the run that a command resumes or evaluates, and records where it came from."""

from __future__ import annotations

import datetime
import hashlib
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dapo_lightning.run.changes import apply_changes, may_change
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.folder import checkpoint_in, read_config
from dapo_lightning.run.foreign import (
    check_foreign,
    check_links,
    check_old_overrides,
    check_resolved,
    confirmations,
    escaped,
)
from dapo_lightning.run.options import chosen_options, groups, numbers_of_options
from dapo_lightning.run.sweep_folders import folder_name
from dapo_lightning.slurm import job as slurm
from dapo_lightning.utils.checkpoints import all_checkpoints, damage, main_file, newest_whole, steps_done
from dapo_lightning.utils.extras import extra_with
from dapo_lightning.utils.overrides import override_key
from dapo_lightning.utils.version import code_version

FROM_ITS_WEIGHTS = "policy=hub policy.name=<run folder>/policy policy.chat=<as before; false for policy=tiny>"


def run_folder(resume: str | None, mode: str, experiment: str | None) -> str:
    """Returns the folder of a run: the folder of the run that is resumed, or a name made from the current time, which
    `compose.create` makes unique."""
    if resume:
        return resume
    kind = experiment or "custom" if mode == "train" else mode
    if slurm.in_job():  # the same for all tasks, and after requeueing
        return f"outputs/{kind}/slurm_{os.environ['SLURM_JOB_ID']}"
    return f"outputs/{kind}/{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"


def run_id(folder: str) -> str:
    """Returns an id of a run for services that track experiments. It is stored in config.yaml, so it stays the same."""
    return hashlib.sha256(str(Path(folder).absolute()).encode()).hexdigest()[:16]


def run_name(folder: str) -> str:
    """Returns a name of a run for people: the last two parts of its folder. It is stored in config.yaml as well."""
    return "-".join(Path(folder).absolute().parts[-2:])


OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True)
OmegaConf.register_new_resolver("folder_name", folder_name)
OmegaConf.register_new_resolver("run_id", run_id)
OmegaConf.register_new_resolver("run_name", run_name)
OmegaConf.register_new_resolver("numbers_of_options", numbers_of_options, use_cache=True)
OmegaConf.register_new_resolver("fifth", lambda number: max(1, number // 5))


def quoted_paths(overrides: Sequence[str]) -> list[str]:
    """Returns overrides with the values of `resume` and `checkpoint` quoted for Hydra, unless they are quoted already
    or a list of checkpoints, because the names of folders may contain overrides."""
    return [
        quoted(key, value) if _is_path(key, value) else f"{key}{equals}{value}"
        for key, equals, value in (override.partition("=") for override in overrides)
    ]


def _is_path(key: str, value: str) -> bool:
    is_list = key == "checkpoint" and value.startswith("[") and value.endswith("]") and "," in value
    return key in ("resume", "checkpoint") and bool(value) and not is_list


def quoted(key: str, value: str) -> str:
    """Returns an override that gives a key exactly this text; a text in quotes, or null, stays as it is."""
    if value == "null" or (len(value) > 1 and value[0] == value[-1] and value[0] in "'\""):
        return f"{key}={value}"
    return f"{key}={QuotedString(text=escaped(value), quote=Quote.single).with_quotes()}"


@contextmanager
def as_config_error() -> Iterator[None]:
    """Turns the errors of a bad configuration into a ConfigError with the sentence that Hydra's wrapping hides."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, ImportError, OmegaConfBaseException, HydraException) as error:
        raise ConfigError(_sentence(error)) from error
    except Exception as error:
        if type(error).__module__ != "huggingface_hub.errors":  # its errors have no built-in type in common
            raise
        raise ConfigError(f"policy: {' '.join(str(error).split())}") from error


def _sentence(error: BaseException) -> str:
    """Returns how to install the package that is missing, if one is, and otherwise the error that Hydra wrapped."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and (extra := extra_with(cause.name or "")):
            return f'the package {cause.name} is missing: pip install "dapo-lightning[{extra}]".'
        cause = cause.__cause__ or cause.__context__
    return str(error.__cause__ or error) if isinstance(error, InstantiationException) else str(error)


def load_run_config(config: DictConfig) -> DictConfig:
    """Loads the configuration of the run that is resumed or evaluated, and applies the overrides that may change it."""
    if config.resume and (config.checkpoint or config.mode != "train"):
        raise ConfigError(
            "resume continues training: leave out checkpoint and mode, or use mode=evaluate checkpoint=<run folder>."
        )
    if config.resume:
        return load_resumed(config)
    if config.mode != "evaluate":
        raise ConfigError(
            f"checkpoint={config.checkpoint} is for mode=evaluate. To continue a run, use resume=<run folder>; to "
            f"start from its weights, {FROM_ITS_WEIGHTS}."
        )
    return load_evaluated(config)


def load_evaluated(config: DictConfig) -> DictConfig:
    """Composes the configuration of the run that `checkpoint` belongs to (the first of several), and applies the
    overrides of this command.

    If the command chooses another option of a group, the settings of the old run in that group are dropped, because
    they belonged to the old option.
    """
    files = [file for given in _several(config.checkpoint) for file in _checkpoints(Path(given))]
    now = given_overrides()
    chosen, keys = groups_chosen(now), {override_key(override) for override in now}
    dropped = {"run_folder", "mode", *chosen}
    saved = read_config(files[0].parent.parent)
    before = check_old_overrides(saved["overrides"])
    kept = (o for o in before if override_key(o).partition(".")[0] not in dropped and override_key(o) not in keys)
    overrides = [*kept, *now]
    composed = compose("config", overrides=overrides, return_hydra_config=True)
    with open_dict(composed):
        composed.update({group: config[group] for group in chosen if group in config})
        composed.choices, composed.overrides = chosen_options(composed.pop("hydra")), escaped(overrides)
        composed.checkpoint = escaped([str(file) for file in files] if len(files) > 1 else str(files[0]))
        composed.run_folder = escaped(config.run_folder)
        if "warm_start" in composed.policy:
            composed.policy.warm_start = None  # its weights are about to be replaced
    check_foreign(as_dict(composed), Path(config.run_folder), config, saved)
    return composed


def _several(checkpoint: Any) -> list[Any]:
    return [checkpoint] if isinstance(checkpoint, str) else list(checkpoint)


def _checkpoints(given: Path) -> list[Path]:
    """Returns the newest checkpoint of a run folder, all that its folder `checkpoints` holds, or the file itself."""
    if given.name == "checkpoints" and (found := all_checkpoints(given)):
        files = found
    else:
        files = [newest_whole(given / "checkpoints")[0] if (given / "config.yaml").is_file() else given]  # type: ignore[list-item]
    for file in files:
        if file is None or not main_file(file).is_file() or not (file.parent.parent / "config.yaml").is_file():
            raise ConfigError(
                f"checkpoint={given} is neither the folder of a run, nor its folder checkpoints, nor a .ckpt file "
                "inside one. For the folder of a policy, use policy=hub policy.name=<folder>."
            )
        if (reason := damage(file)) is not None:
            raise ConfigError(f"checkpoint={file}: is damaged ({reason}). Choose another checkpoint of that run.")
    return files


def groups_chosen(overrides: list[str]) -> set[str]:
    """Returns the config groups whose option the command names, or its recipe or experiment changes."""
    choices, named = chosen_options(HydraConfig.get()), {override_key(override) for override in overrides}
    return {group for group, default in groups().items() if group in named or choices.get(group) != default}


def load_resumed(config: DictConfig) -> DictConfig:
    """Reads the configuration of the run to resume. If its folder was moved, its paths are adapted.

    `num_steps` and the trainer may be changed, because neither changes the steps themselves; with `changes=true`, also
    settings with which the run can go on. The changes are saved and recorded.
    """
    folder = Path(config.resume)
    checkpoint = checkpoint_in(folder)
    check_links(folder)
    saved = read_config(folder)
    check_resolved({key: value for key, value in saved.items() if key != "overrides"})
    check_foreign(saved, folder, config, saved)
    overrides = {o: override_key(o) for o in given_overrides() if not o.startswith(("resume=", "changes="))}
    free = [o for o, key in overrides.items() if key.split(".")[0] in ("num_steps", "trainer", "profile")]
    again = confirmations(saved, folder, saved)
    others = [o for o, key in overrides.items() if o not in (*free, *again) or key == "trainer.precision"]
    if others and not config.changes:
        changeable = all(map(may_change, others))
        remedy = "add changes=true to change it from here on" if changeable else "leave it out"
        raise ConfigError(
            f"resume keeps the configuration of its run, so {' '.join(others)} would have no effect: {remedy}, "
            f"or start a new run with {FROM_ITS_WEIGHTS}. Without changes=true, only num_steps and the trainer, except "
            "its precision, can be changed."
        )
    saved = OmegaConf.create(escaped(saved | {"profile": False}))
    if "trainer" in overrides.values():
        saved.trainer = OmegaConf.merge(config.trainer, {"precision": saved.trainer.precision})
        free = [o for o in free if overrides[o] in ("num_steps", "profile")]
    saved.merge_with(OmegaConf.from_dotlist(free), {"resume": escaped(str(folder))})
    if config.changes:
        apply_changes(saved, config, others, HydraConfig.get())
    if saved.num_steps < (done := steps_done(checkpoint)):
        raise ConfigError(f"num_steps={saved.num_steps}: {checkpoint} already holds {done} steps: use at least {done}.")
    return saved


def resume_command(folder: Path) -> str:
    """Returns the overrides that continue a run, as they can be pasted into a shell."""
    saved = read_config(folder)
    return shlex.join([f"resume={folder}", *confirmations(saved, folder, saved)])


def record_origin(config: DictConfig) -> DictConfig:
    """Adds the options and overrides that a configuration was composed with (by the run that is resumed or evaluated,
    if there is one), and all versions of the code that have run it."""
    hydra_config = HydraConfig.get()
    overrides = escaped(given_overrides())
    origin = OmegaConf.create({"choices": chosen_options(hydra_config), "overrides": overrides, "commits": []})
    config = cast(DictConfig, OmegaConf.merge(origin, config))
    if code_version() not in config.commits:
        config.commits.append(code_version())
    return config


def given_overrides() -> list[str]:
    """Returns the overrides of this run as they were given, also those that hold `${`."""
    return cast(list[str], OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False))


def as_dict(config: DictConfig) -> dict[str, Any]:
    """Converts to plain values, with interpolations resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def in_sweep() -> bool:
    """Whether this is a job of `python train.py -m`."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def check_launcher() -> None:
    """Raises a ConfigError for a launcher without `-m`, which Hydra would ignore."""
    launcher = HydraConfig.get().runtime.choices["hydra/launcher"]
    if launcher != "basic" and not in_sweep():
        raise ConfigError(
            f"hydra/launcher={launcher} has no effect without -m, and the run would start on this machine. Add -m: "
            f"python train.py -m hydra/launcher={launcher} ..."
        )


def can_resume() -> bool:
    """Whether the folder may hold an earlier part of this run, because a sweep is repeated or a SLURM job requeued."""
    return in_sweep() or slurm.is_restarted()
