"""The command `python train.py` or `dapo-lightning`, and `dapo_lightning.run` for notebooks.

Torch, Lightning and transformers are imported only once the configuration is composed and checked.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
from omegaconf import DictConfig, open_dict

from dapo_lightning.run.checks import ConfigError
from dapo_lightning.run.command import (
    CONF,
    as_config_error,
    as_dict,
    can_resume,
    check_launcher,
    compose_run,
    in_sweep,
    load_run_config,
)
from dapo_lightning.run.folder import continuation, finished_result, lock_folder, remove_if_unused

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Args:
        avg_at_k: held-out avg@k at the end; with mode=plan, the least number of seconds that a DAPO step takes.
        run_folder: the folder that holds everything else.
    """

    avg_at_k: float
    run_folder: Path


def main() -> None:
    """Runs the command line."""
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(run_job)()


def run(overrides: Sequence[str] = ()) -> Result:
    """Runs `dapo-lightning <overrides>` in this process, as often as you like.

    Raises:
        ConfigError: if the configuration is refused; the message names the key and the remedy.
    """
    with compose_run(overrides) as config:
        return Result(execute(config), Path(config.run_folder))


def run_job(config: DictConfig) -> float:
    """Runs a configuration that Hydra composed, and returns the number that a sweeper may maximise.

    The error of a job of a sweep is logged, and the other jobs go on; at the end Hydra raises the first error. Any
    other error of ours ends the process with one sentence.
    """
    try:
        return execute(config)
    except Exception as error:
        is_ours = type(error).__module__.startswith("dapo_lightning.")
        if in_sweep():
            log.error("%s failed: %s", config.run_folder, error, exc_info=not is_ours)
        elif is_ours:
            _log_to_file(error)  # the console shows it as the last line of the command
            remove_if_unused(Path(config.run_folder))
            sys.exit(f"error: {error}")
        raise


def execute(config: DictConfig) -> float:
    """Trains, evaluates or plans. A job of a sweep may be finished already, or continue where it was interrupted."""
    with as_config_error():
        check_launcher()
        if config.resume or config.checkpoint:
            config = load_run_config(config)
        if can_resume() and not config.resume:
            with open_dict(config):
                config.update(continuation(as_dict(config)))
    result = finished_result(as_dict(config)) if can_resume() else None
    if result is not None:
        log.info("%s is done already", config.run_folder)
        return result

    from dapo_lightning.run.build import set_up
    from dapo_lightning.run.session import evaluate, plan_run, train

    if config.mode == "plan":
        with as_config_error():
            return plan_run(config)
    with lock_folder(Path(config.run_folder)):
        with as_config_error():
            module, data, trainer = set_up(config)
        try:
            return (train if config.mode == "train" else evaluate)(as_dict(config), module, data, trainer)
        finally:
            module.worker.reward.close()


def _log_to_file(error: Exception) -> None:
    traceback = None if isinstance(error, ConfigError) else (type(error), error, error.__traceback__)
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "%s", (error,), traceback)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
