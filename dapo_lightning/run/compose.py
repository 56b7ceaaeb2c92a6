"""Composes the configuration of a command and refuses what can be refused without importing torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from dapo_lightning.run.checks import check
from dapo_lightning.run.command import as_config_error, check_launcher, load_run_config, quoted_paths
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.foreign import escaped
from dapo_lightning.run.options import CONF, groups, nearest, options, options_with
from dapo_lightning.run.refuse import check_overrides, opened
from dapo_lightning.run.schema import PLAIN, check_finite, check_plain
from dapo_lightning.run.targets import check_entries, check_numbers, check_targets
from dapo_lightning.slurm import job as slurm
from dapo_lightning.utils.overrides import ORIGIN, leaves, override_key

_OF_TRAINING = re.compile(r"evaluation\.sets\.[^.]+\.data\.train_path")  # held-out sets need none


def initialized() -> AbstractContextManager[None]:
    """Initializes Hydra with conf/ for a block."""
    return initialize_config_dir(version_base="1.3", config_dir=str(CONF), job_name="train")


def compose_run(overrides: Sequence[str]) -> DictConfig:
    """Composes the configuration of a run, or raises a ConfigError. The objects check the rest when they are built."""
    overrides = quoted_paths(overrides)
    base = check_overrides(overrides, is_sweep=False)
    overrides = opened(overrides)
    with as_config_error():
        composed = compose("config", overrides=overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(composed)
    check_launcher()
    choices = dict(composed.hydra.runtime.choices)
    is_hydras = OmegaConf.is_interpolation(composed, "run_folder")
    folder = Path(composed.hydra.run.dir).absolute() if is_hydras else Path(str(composed.run_folder))
    is_named = not is_hydras or slurm.in_job() or {"resume", "hydra.run.dir"} & set(map(override_key, overrides))
    OmegaConf.set_readonly(composed.hydra, False)  # HydraConfig has locked it
    with open_dict(composed), open_dict(base):
        for key in ("resume", "checkpoint"):
            if composed[key] is not None:
                composed[key] = escaped(
                    OmegaConf.to_container(composed[key]) if OmegaConf.is_list(composed[key]) else str(composed[key])
                )
        hydra_config = composed.pop("hydra")
        composed.run_folder = escaped(str(folder))
        del base["hydra"]
    if composed.profile and composed.mode != "train":
        raise ConfigError("profile=true profiles a DAPO step of training: leave it out.")
    if composed.changes and not composed.resume:
        raise ConfigError("changes=true is for resume=<run folder>: leave it out.")
    if composed.resume or composed.checkpoint:
        with as_config_error():
            loaded = load_run_config(composed)
        check_settings(loaded, choices)
    else:
        resolved = check_settings(composed, choices)
        if any(override.startswith(("+", "~")) for override in overrides):
            check_targets(resolved)  # only the signatures show which arguments exist
        check_numbers(resolved, base)
    folder = create(folder, is_new=not is_named)
    composed.run_folder = hydra_config.run.dir = hydra_config.runtime.output_dir = escaped(str(folder))
    HydraConfig.instance().set_config(OmegaConf.create({"hydra": hydra_config}))
    return composed


def check_settings(config: DictConfig, choices: Mapping[str, str]) -> dict[str, Any]:
    """Resolves a configuration, or raises a ConfigError for whatever can be refused without importing its classes.

    Args:
        choices: the option of each group.
    """
    plain = {key: resolve(config, key, choices) for key in PLAIN}
    check_finite(plain)
    check_plain(plain)
    unresolved = OmegaConf.to_container(config, resolve=False)
    missing = [key for key, value in leaves(unresolved).items() if value == "???" and not _OF_TRAINING.fullmatch(key)]
    if missing:
        raise ConfigError(f"{missing[0]} has no value: add {missing[0]}=<value>. {_about(missing[0], choices)}")
    known = [*PLAIN, *groups(), *ORIGIN]
    unknown = [str(key) for key in config if key not in known]
    if unknown:
        raise ConfigError(f"{unknown[0]}: there is no such key.{nearest(unknown[0], known)}")
    resolved = plain | {str(key): resolve(config, str(key), choices) for key in config if key not in PLAIN}
    check_entries(resolved)
    check(resolved)
    return resolved


def resolve(config: DictConfig, key: str, choices: Mapping[str, str]) -> Any:
    """Returns one key or group as plain values; raises a ConfigError if it refers to a key that does not exist."""
    try:
        value = config[key]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except InterpolationKeyError as error:
        wanted = str(error).partition("'")[2].partition("'")[0]
        group, _, name = wanted.partition(".")
        others = " or ".join(f"{group}={option}" for option in options_with(group, name)) if group in groups() else ""
        raise ConfigError(
            f"{error.full_key} takes its value from {wanted}, and {group}={choices.get(group)} has no such key: "
            f"{f'choose {others}, or ' if others else ''}set {error.full_key}=<value>. "
            "(A literal ${ is written \\${.)"
        ) from error
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].rpartition("resolving interpolation: ")[2].strip("\"'. ")
        raise ConfigError(f"{error.full_key}: {reason}. {_about(str(error.full_key), choices)}".rstrip()) from error


def _about(key: str, choices: Mapping[str, str]) -> str:
    group = key.partition(".")[0]
    option = choices.get(group)
    return f"({group}={option}: {options(group)[option]}.)" if option and group in groups() else ""


def create(folder: Path, is_new: bool) -> Path:
    """Creates a folder. If a new folder is wanted but the name is taken, a number is appended. This also works if
    several processes create folders at the same moment.

    Raises:
        ConfigError: if that is not possible.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        names = (folder, *(folder.with_name(f"{folder.name}_{number}") for number in range(2, 10_000)))
        return next(name for name in names if _is_made(name) or not is_new)
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}"
        raise ConfigError(f"{folder} cannot be created ({reason}): choose another run_folder=<folder>.") from None


def check_sweep_folder(folder: Path) -> None:
    """Raises a ConfigError if a file is in the way of a folder that a command names."""
    if not (existing := next(path for path in (folder, *folder.absolute().parents) if path.exists())).is_dir():
        raise ConfigError(f"hydra.sweep.dir={folder}: {existing} is a file. Choose a folder.")


def check_log(path: Path) -> None:
    """Raises a ConfigError if a log cannot be written, which Hydra would report with a traceback."""
    try:
        path.open("a").close()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}): repair it, or choose another run_folder=<folder>."
        ) from None


def _is_made(folder: Path) -> bool:
    """Creates a folder, and returns whether it is new."""
    try:
        folder.mkdir()
        return True
    except FileExistsError:
        if not folder.is_dir():
            raise
        return False
