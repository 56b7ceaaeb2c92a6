"""Trains, evaluates or plans, once everything is built."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
from omegaconf import DictConfig

from dapo_lightning.callbacks.changed_settings import ChangedSettings
from dapo_lightning.callbacks.checkpoint import AtomicCheckpoint
from dapo_lightning.callbacks.early_stopping import EarlyStopping
from dapo_lightning.distributed.sharding import is_sharded
from dapo_lightning.draws.datamodule import PromptDataModule
from dapo_lightning.report.__main__ import report
from dapo_lightning.rollout.finite import NotFiniteError
from dapo_lightning.run.changes import last_values
from dapo_lightning.run.checks import check, check_options
from dapo_lightning.run.command import as_dict
from dapo_lightning.run.curves import draw_curves
from dapo_lightning.run.evaluations import Evaluated, draw_evaluations, evaluations_as_text, put_aside
from dapo_lightning.run.folder import read_config
from dapo_lightning.run.objects import made
from dapo_lightning.run.progress import read_checkpoint, read_history
from dapo_lightning.run.summary import as_text, evaluation_as_text, summarize, summarize_evaluation, write_summary
from dapo_lightning.run.targets import check_targets
from dapo_lightning.slurm.stop import Stop
from dapo_lightning.step.checkpoint import not_finite
from dapo_lightning.step.module import DAPOModule
from dapo_lightning.utils.changes import read_changes
from dapo_lightning.utils.checkpoints import newest_whole, steps_done

log = logging.getLogger(__name__)
T = TypeVar("T")


def train(config: Mapping[str, Any], module: DAPOModule, data: PromptDataModule, trainer: L.Trainer) -> float:
    """Evaluates, trains, evaluates again, fills the run folder, and returns the held-out avg@k at the end.

    Raises:
        Stopped: if a signal ended the run; all completed steps are saved.
    """
    with _listening(trainer), _loggers_closed(trainer):
        return _train(config, module, data, trainer)


def _listening(trainer: L.Trainer, for_evaluation: bool = False) -> AbstractContextManager[None]:
    stop = _callback(trainer, Stop)
    return stop.listening(for_evaluation) if stop else nullcontext()


@contextmanager
def _loggers_closed(trainer: L.Trainer) -> Iterator[None]:
    """Tells loggers with a method `close` at the end whether the run has finished."""
    is_finished = False
    try:
        yield
        is_finished = True
    finally:
        for logger in trainer.loggers:
            if hasattr(logger, "close"):
                logger.close(is_finished)


def _train(config: Mapping[str, Any], module: DAPOModule, data: PromptDataModule, trainer: L.Trainer) -> float:
    folder = Path(config["run_folder"])
    checkpoint = newest_whole(folder / "checkpoints")[0] if config["resume"] else None
    history = read_history(checkpoint, module, trainer) if checkpoint else {}
    if checkpoint and (changes := last_values(read_changes(folder), steps_done(checkpoint))):
        trainer.callbacks.append(ChangedSettings(changes, made(config["optimizer"])))  # type: ignore[attr-defined]
    if checkpoint is None:
        trainer.validate(module, data, verbose=False)
    if checkpoint is not None and steps_done(checkpoint) == config["num_steps"]:  # only the end of the run is missing
        trainer.validate(module, data, ckpt_path=checkpoint, verbose=False, weights_only=True)
    else:
        if checkpoint is not None and _lacks_evaluation(history, config["evaluation"]["every"]):
            trainer.validate(module, data, ckpt_path=checkpoint, verbose=False, weights_only=True)
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    if module.history.dapo_steps not in module.history.evaluations:
        trainer.validate(module, data, verbose=False)
    if (bad := not_finite(module.model.state_dict())) is not None:
        raise NotFiniteError(f"the weights are not finite ({bad}), so they were not saved. Lower optimizer.lr.")
    result = _avg_at_k(config, module)
    ended = _ended_early(config, module, trainer)
    summary = _summary(module, data, trainer, folder) | ({"ended_early": ended} if ended else {})
    if trainer.is_global_zero or is_sharded(module.model):
        step = _export(module, trainer, folder)
        summary |= {"policy_step": step} if step != module.history.dapo_steps else {}
    if trainer.is_global_zero:
        if (folder / "metrics.csv").exists():  # missing without the logger csv
            draw_curves(folder)
        write_summary(summary, folder / "summary.json")  # last, because it marks the run as finished
        write_report(folder)
        print(as_text(summary))
    return result


def write_interrupted(module: DAPOModule, data: PromptDataModule, trainer: L.Trainer, folder: Path) -> None:
    """Writes and prints the summary of a run that Ctrl-C has ended; it can be continued."""
    if module.history.evaluations:
        summary = _summary(module, data, trainer, folder) | {"interrupted": True}
        write_summary(summary, folder / "summary.json")
        print(as_text(summary))


def _summary(module: DAPOModule, data: PromptDataModule, trainer: L.Trainer, folder: Path) -> dict[str, Any]:
    summary = summarize(module.history, module.clock.seconds, data.counts, read_config(folder), folder)
    saves = _callback(trainer, AtomicCheckpoint)
    if saves and saves.best and (step := saves.best_step(module.history)) is not None:
        summary["best"] = {"metric": saves.best, "step": step}
    warnings = [warning for callback in trainer.callbacks for warning in getattr(callback, "warnings", ())]  # type: ignore[attr-defined]
    return summary | ({"warnings": warnings} if warnings else {})


def _ended_early(config: Mapping[str, Any], module: DAPOModule, trainer: L.Trainer) -> str | None:
    if module.history.dapo_steps == config["num_steps"]:
        return None
    stops = _callback(trainer, EarlyStopping)
    return (stops and stops.reason) or f"trainer.max_time={config['trainer'].get('max_time')}"


def _export(module: DAPOModule, trainer: L.Trainer, folder: Path) -> int:
    """Writes policy/, and returns its DAPO step: the last one, or with callbacks.checkpoint.export=best, the best."""
    saves = _callback(trainer, AtomicCheckpoint)
    step = saves.best_step(module.history) if saves and saves.export == "best" else None
    last = module.history.dapo_steps
    if step in (None, last):
        module.worker.policy.save(folder / "policy")
        return last
    weights = read_checkpoint(folder / "checkpoints" / f"step_{step:06d}.ckpt")["state_dict"]
    module.load_state_dict(weights, strict=module.strict_loading)
    module.worker.policy.save(folder / "policy")
    return step


def _callback(trainer: L.Trainer, kind: type[T]) -> T | None:
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)  # type: ignore[attr-defined]


def write_report(folder: Path) -> None:
    """Writes report.html. An error does not end a run, because the page can be made again at any time."""
    try:
        report(folder)
    except Exception as error:
        log.warning("report.html was not written (%s); dapo-lightning report %s makes it", error, folder)


def _lacks_evaluation(history: Mapping[str, Any], every: int) -> bool:
    """Whether the run stopped before or during the evaluation that follows the checkpoint."""
    return history["dapo_steps"] % every == 0 and history["dapo_steps"] not in history["evaluations"]


def evaluate(config: Mapping[str, Any], module: DAPOModule, data: PromptDataModule, trainer: L.Trainer) -> float:
    """Evaluates the policy, or each of several checkpoints, writes the results to the run folder, and returns avg@k (of
    the last checkpoint).

    Raises:
        Stopped: if a signal ended the evaluation.
    """
    folder, given = Path(config["run_folder"]), config["checkpoint"]
    several, found = isinstance(given, list), list[Evaluated]()
    with _loggers_closed(trainer):
        for checkpoint in given if several else [given]:
            if checkpoint:
                read_checkpoint(Path(checkpoint))
            with _listening(trainer, for_evaluation=True):
                trainer.validate(module, data, ckpt_path=checkpoint, verbose=False, weights_only=True)
            found.append(Evaluated(checkpoint, module.history.dapo_steps, module.history.evaluation))
            if several and trainer.is_global_zero:
                put_aside(folder, found)
    if trainer.is_global_zero:
        summary = summarize_evaluation(config, found[-1].metrics, data.counts)
        if several:
            summary["evaluations"] = [asdict(one) for one in found]
            draw_evaluations(found, folder)
        write_summary(summary, folder / "summary.json")
        print(evaluations_as_text(found, folder) if several else evaluation_as_text(summary))
    return _avg_at_k(config, module)


def _avg_at_k(config: Mapping[str, Any], module: DAPOModule) -> float:
    return module.history.evaluation[f"avg@{config['evaluation']['num_completions']}"]


def plan_run(config: DictConfig) -> float:
    """Prints the memory and time that a run would need, and returns the minimum seconds of a DAPO step."""
    from dapo_lightning.plan import cluster_of, known_config, plan

    settings = as_dict(config)
    check(settings)
    check_targets(settings)
    check_options(settings)
    source = made(settings["policy"])
    found = plan(settings, known_config(getattr(source, "name", "")) or source.config(), cluster_of(settings))
    print(found)
    return found.as_it_stands.seconds
