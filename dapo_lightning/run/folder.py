"""The folder of a run: its lock, its config.yaml, and what is needed to continue it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.schema import PLAIN
from dapo_lightning.utils import plain_yaml
from dapo_lightning.utils.atomic import replacing
from dapo_lightning.utils.checkpoints import newest_whole
from dapo_lightning.utils.json_objects import read_object
from dapo_lightning.utils.overrides import ORIGIN, leaves, with_texts

REQUIRED = (*PLAIN, "environment", "trainer")


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Locks a folder within the context; the first rank holds the lock for all ranks of its run.

    Raises:
        ConfigError: if another run holds the lock, for example because a sweep is repeated while its jobs still run.
    """
    from lightning.pytorch.utilities import rank_zero_only  # takes seconds, and a refused command should answer at once

    if getattr(rank_zero_only, "rank", 0) != 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=10)  # seconds, because a killed process may take some to release it
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"{folder}: another process is working on this run. Wait until it has finished.") from None
    try:
        yield
    finally:
        lock.release()


def read_config(folder: Path) -> dict[str, Any]:
    """Reads what `save_config` wrote, or raises a ConfigError if it is damaged. If the folder was moved, paths in it
    are adapted."""
    path = folder / "config.yaml"
    try:
        saved = plain_yaml.read(path)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} cannot be read ({error}).") from None
    kinds: dict[str, type] = {"choices": dict, "overrides": list, "trainer": dict, "resume": type(None)}
    missing = [
        key
        for key in (*ORIGIN, *REQUIRED)
        if not isinstance(saved, dict) or key not in saved or not isinstance(saved[key], kinds.get(key, object))
    ]
    if missing:  # YAML that is truncated between two lines is still valid
        raise ConfigError(f"{path} is truncated, or of an earlier version: {missing[0]} is missing or damaged.")
    old, new = str(saved.get("run_folder")), str(folder.absolute())  # Hydra keeps symbolic links

    def moved(text: str) -> str:
        return new + text.removeprefix(old) if text == old or text.startswith(f"{old}/") else text

    return with_texts(saved, moved)


def save_config(config: Mapping[str, Any], folder: Path) -> None:
    """Writes a resolved configuration with its origin as config.yaml, atomically."""
    settings = {name: value for name, value in config.items() if name not in (*ORIGIN, "resume")}
    origin = {name: config[name] for name in ORIGIN}
    written = origin | settings | {"resume": None}  # without the last key, the file is truncated
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "config.yaml") as partial:
        partial.write_text(plain_yaml.written(written), encoding="utf-8")


def checkpoint_in(folder: Path) -> Path:
    """Returns the newest intact checkpoint of a run; raises a ConfigError if there is none."""
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"resume={folder}: holds no config.yaml with a checkpoint. Give the folder of a run.")
    checkpoint = newest_whole(folder / "checkpoints")[0]
    if checkpoint is None:
        raise ConfigError(
            f"resume={folder}: this run ended before its first checkpoint, so there is nothing to continue. Start it "
            f"again with its first command and {shlex.quote(f'run_folder={folder}')}."
        )
    return checkpoint


def continuation(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings with which a job continues the run in its folder; none if the folder holds no run.

    Raises:
        ConfigError: if the folder holds a run with other settings.
    """
    folder = Path(config["run_folder"])
    if not (folder / "config.yaml").is_file():
        return {}
    saved = read_config(folder)
    before, now = _settings(saved), _settings(config)
    differing = sorted(name for name in before | now if before.get(name) != now.get(name))
    if differing:
        changes = ", ".join(f"{name} was {before.get(name)} and is {now.get(name)}" for name in differing[:3])
        raise ConfigError(
            f"{folder} holds a run with the same overrides but other settings: {changes}. Remove that folder to repeat "
            "the run, or choose another hydra.sweep.dir."
        )
    return {"resume": str(folder), "commits": saved.get("commits", [])}


def finished_result(config: Mapping[str, Any]) -> float | None:
    """Returns the held-out avg@k of a finished run, or None if it is not finished, or if its summary.json, which is
    written last, is damaged."""
    summary, trains = read_object(Path(config["run_folder"]) / "summary.json"), config["mode"] == "train"
    try:
        if trains and summary["dapo_steps"] < config["num_steps"] and "ended_early" not in summary:
            return None  # it can be continued
        return float(summary["after" if trains else "metrics"][f"avg@{config['evaluation']['num_completions']}"])
    except (KeyError, TypeError, ValueError):
        return None


_NUMBERS = (
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_prompt_tokens",
    "max_new_tokens",
    "max_gradient_norm",
)
_TEXTS = ("policy.name", "policy.dtype", "trainer.precision", "data.train_path", "data.validation_path", "reward.path")


def hyperparameters(config: Mapping[str, Any], techniques: Sequence[str]) -> dict[str, Any]:
    """Returns what distinguishes runs in a comparison: the chosen options, the numbers of the algorithm, and the model,
    data and precision."""
    groups = ("experiment", "recipe", "policy", "data", "reward", "environment", "rollout", "optimizer", *techniques)
    chosen = {group: option for group, option in config["choices"].items() if group in groups}
    of_algorithm = {name: config[name] for name in config if name in (*techniques, *_NUMBERS, "optimizer")}
    of_algorithm |= {name: value for name, value in config.items() if name.startswith("num_")}
    numbers = {name: value for name, value in leaves(of_algorithm).items() if type(value) in (int, float)}
    every = leaves(config)
    return chosen | numbers | {name: str(every[name]) for name in _TEXTS if every.get(name) is not None}


def remove_if_unused(folder: Path) -> None:
    """Removes the folder of a refused command, if it holds nothing but its log and the lock."""
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {"train.log", ".lock"}:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        if folder.parent.parent.name == "outputs" and not any(folder.parent.iterdir()):
            folder.parent.rmdir()


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all settings except those that may change when a run is resumed and those that only observe or plan."""
    free = {*ORIGIN, "resume", "logger", "callbacks", "trainer", "plan", "profile", "doctor"}
    kept = {name: value for name, value in config.items() if name not in free}
    return leaves(kept | {"trainer": {"precision": config["trainer"]["precision"]}})
