"""The command `python train.py` or `dapo-lightning`, and `dapo_lightning.run` for notebooks.

Torch, Lightning and transformers are imported only once the configuration is composed and checked.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, open_dict

from dapo_lightning.run.command import (
    as_config_error,
    as_dict,
    can_resume,
    in_sweep,
    load_run_config,
    quoted,
    quoted_paths,
    resume_command,
)
from dapo_lightning.run.compose import check_log, check_sweep_folder, compose_run, create, initialized
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.explain import explanation
from dapo_lightning.run.folder import continuation, finished_result, lock_folder, remove_if_unused
from dapo_lightning.run.help import help_text
from dapo_lightning.run.options import CONF, RENAMED
from dapo_lightning.run.refuse import check_overrides, launcher_as_written, opened, parse
from dapo_lightning.run.sweep_folders import EXCLUDED, fixed_keys
from dapo_lightning.run.swept import check_search, check_swept
from dapo_lightning.run.threads import bound_kernel_caches, keep_freed_memory, log_threads, wait_passively
from dapo_lightning.slurm import job as slurm
from dapo_lightning.utils.checkpoints import latest
from dapo_lightning.utils.console import show_all_characters
from dapo_lightning.utils.orphans import end_with_launcher
from dapo_lightning.utils.overrides import with_home

log = logging.getLogger(__name__)

FOUND = 3
"""The exit code of the doctor if it has found something; refused commands end with 1."""


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Args:
        avg_at_k: held-out avg@k at the end; with mode=plan, the least number of seconds that a DAPO step takes; with
            mode=doctor, the number of findings.
        run_folder: the folder that holds everything else.
    """

    avg_at_k: float
    run_folder: Path


def main() -> None:
    """Runs the command line. A refused command leaves no files behind."""
    if sys.argv[1:2] == ["report"]:
        from dapo_lightning.report.__main__ import main as report

        sys.exit(report(sys.argv[2:]))
    if sys.argv[1:2] == ["doctor"]:
        sys.argv[1:] = [*sys.argv[2:], "mode=doctor"]
    end_with_launcher()
    show_all_characters()
    _prepare_libraries()  # already here, because checking a command may import classes, and with them torch
    arguments = [with_home(argument) for argument in sys.argv[1:]]
    if {"-h", "--help"} & {*arguments}:
        print(help_text([argument for argument in arguments if not argument.startswith("-")]))
        return
    try:
        sys.argv[1:] = _checked_command(arguments)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(run_job)()


def run(overrides: Sequence[str] = ()) -> Result:
    """Runs `dapo-lightning <overrides>` in this process. It may be called any number of times.

    Raises:
        ConfigError: if the configuration is refused; the message names the key and the remedy.
    """
    with initialized():
        config = compose_run([with_home(override) for override in overrides])
        return Result(execute(config), Path(config.run_folder))


def _checked_command(arguments: Sequence[str]) -> list[str]:
    """Raises a ConfigError if a command is refused. Returns the command with one more override: the folder of the run,
    or of the sweep, where Hydra writes its log. Commands with other configs (--config-dir and the like) are not checked
    here, because only Hydra knows those.
    """
    given = get_args_parser().parse_args(arguments)
    is_sweep = given.multirun or "hydra.mode=MULTIRUN" in given.overrides  # there, commas separate values
    as_written = launcher_as_written if is_sweep else quoted_paths
    arguments, given.overrides = as_written(arguments), as_written(given.overrides)
    parsed = parse(given.overrides)
    values = {override.key_or_group: override.input_line for override in parsed}
    if given.config_dir or given.config_path or given.config_name or "hydra.searchpath" in values:
        return list(arguments)
    if given.info or given.hydra_help or given.shell_completion or given.experimental_rerun:
        return list(arguments)
    if is_sweep:
        check_search(parsed)
    with initialized():
        if is_sweep or given.cfg:
            base = check_overrides(given.overrides, is_sweep=True)
            arguments = _with(opened(given.overrides), given.overrides, arguments)
            if is_sweep:
                check_swept(parsed, base)
            if is_sweep and EXCLUDED not in values:
                arguments = [*arguments, fixed_keys(parsed)]
            if given.cfg:
                return list(arguments)
            for override in parsed:
                if override.key_or_group == "hydra.sweep.dir":
                    check_sweep_folder(Path(str(override.value())))
                    return list(arguments)
            return [*arguments, quoted("hydra.sweep.dir", str(create(Path(base.hydra.sweep.dir), is_new=True)))]
        folder = compose_run(given.overrides).run_folder
        arguments = _with(opened(given.overrides), given.overrides, arguments)
    log_to = ["hydra/job_logging=stdout"] if "${" in folder else []  # Hydra interpolates the name of its log
    if not log_to:
        check_log(Path(folder) / "train.log")
    return [*arguments, *log_to, quoted("hydra.run.dir", folder)]


def _with(new: Sequence[str], old: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Replaces overrides among the arguments of a command."""
    changed = dict(zip(old, new, strict=True))
    return [changed.get(argument, argument) for argument in arguments]


def run_job(config: DictConfig) -> float:
    """Runs a configuration that Hydra has composed, and returns the number that a sweeper may maximise.

    If a job of a sweep fails, the error is logged and the other jobs continue; at the end, Hydra raises the first
    error. Outside a sweep, an error of this package ends the process with its message.
    """
    folder = Path(config.run_folder)
    try:
        result = execute(config)
        if config.mode == "doctor" and result and not in_sweep():
            sys.exit(FOUND)
        return result
    except KeyboardInterrupt:  # while Lightning, which handles it otherwise, is not at work
        remove_if_unused(folder)
        when = "" if latest(folder / "checkpoints") else " before the first step"
        print(f"interrupted{when}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        sentence = explanation(error, folder)
        if in_sweep():
            log.error("%s failed: %s", folder, sentence or error, exc_info=sentence is None)
            if sentence is not None:
                raise CompactHydraException(sentence) from None  # which Hydra shows without a traceback
        elif sentence is not None:
            _log_to_file(error)  # sys.exit prints it on the console
            remove_if_unused(folder)
            sys.exit(f"error: {sentence}")
        raise


def execute(config: DictConfig) -> float:
    """Trains, evaluates or plans. A job of a repeated sweep returns its result or continues where it stopped."""
    for choice in (f"{group}={option}" for group, option in HydraConfig.get().runtime.choices.items()):
        if choice in RENAMED:
            log.warning("%s is now %s; the old name will be removed in the next release", choice, RENAMED[choice])
    with as_config_error():
        if config.resume or config.checkpoint:
            config = load_run_config(config)
    config = _continued(config)
    if (result := _earlier_result(config)) is not None:
        return result

    _prepare_libraries()
    keep_freed_memory()
    from dapo_lightning.run.build import set_up
    from dapo_lightning.run.quiet import messages_above_bars, quiet_lightning
    from dapo_lightning.run.session import evaluate, plan_run, train, write_interrupted, write_report

    if config.mode == "plan":
        with as_config_error():
            return plan_run(config)
    if config.mode == "doctor":
        from dapo_lightning.run.visit import visit

        with as_config_error(), lock_folder(Path(config.run_folder)), quiet_lightning():
            return visit(config)
    with lock_folder(Path(config.run_folder)), quiet_lightning(), messages_above_bars():
        log_threads()
        if not (slurm.in_job() and slurm.num_tasks() > 1):  # whose other tasks do not wait for the lock
            config = _continued(config)  # another sweep may have finished this job meanwhile
            if (result := _earlier_result(config)) is not None:
                return result
        with as_config_error():
            module, data, trainer = set_up(config)
        try:
            return (train if config.mode == "train" else evaluate)(as_dict(config), module, data, trainer)
        except BaseException as error:
            folder = Path(config.run_folder)
            if config.mode == "train" and trainer.is_global_zero and latest(folder / "checkpoints"):
                log.info("the run can be continued with %s", resume_command(folder))
                if isinstance(error, SystemExit) and error.code == 128 + signal.SIGINT:
                    write_interrupted(module, data, trainer, folder)
                write_report(folder)
            raise
        finally:
            module.close_rewards()


def _prepare_libraries() -> None:
    wait_passively()
    bound_kernel_caches()


def _continued(config: DictConfig) -> DictConfig:
    """Returns the configuration with which a job of a repeated sweep goes on, if an earlier one has begun its run."""
    if can_resume() and not config.resume:
        config = config.copy()
        with as_config_error(), open_dict(config):
            config.update(continuation(as_dict(config)))
    return config


def _earlier_result(config: DictConfig) -> float | None:
    """Returns the result of a job of a repeated sweep whose run is finished already."""
    result = finished_result(as_dict(config)) if can_resume() else None
    if result is not None:
        log.info("%s is finished already", config.run_folder)
    return result


def _log_to_file(error: Exception) -> None:
    traceback = None if isinstance(error, ConfigError) else (type(error), error, error.__traceback__)
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "%s", (error,), traceback)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = lambda record: None  # type: ignore[method-assign]  # the disk may be full
            handler.handle(record)
