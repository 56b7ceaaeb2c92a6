"""What `train.py` does once everything is built: a training run, or an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from dapo_lightning.callbacks.checkpoint import latest, steps_done
from dapo_lightning.distributed.sharding import full_state_dict, is_sharded
from dapo_lightning.draws.datamodule import PromptDataModule
from dapo_lightning.run.curves import draw_curves
from dapo_lightning.run.evaluation import evaluation_as_text, summarize_evaluation
from dapo_lightning.run.folder import read_config
from dapo_lightning.run.summary import as_text, summarize, write_summary
from dapo_lightning.slurm.stop import Stop
from dapo_lightning.step.module import DAPOModule


def run(config: Mapping[str, Any], module: DAPOModule, data: PromptDataModule, trainer: L.Trainer) -> float:
    """Evaluates, trains, evaluates, and leaves a run folder; returns the held-out avg@k at the end.

    Raises:
        Stopped: when a signal ended it; the steps done are saved.
    """
    stop = Stop(Path(config["run_folder"]) / "checkpoints")
    trainer.callbacks.insert(0, stop)  # type: ignore[attr-defined]
    with stop.listening():
        return _run(config, module, data, trainer)


def _run(config: Mapping[str, Any], module: DAPOModule, data: PromptDataModule, trainer: L.Trainer) -> float:
    folder = Path(config["run_folder"])
    checkpoint = latest(folder / "checkpoints") if config["resume"] else None
    if checkpoint is None:
        trainer.validate(module, data, verbose=False)
    if checkpoint is not None and steps_done(checkpoint) == config["num_steps"]:  # only the end is missing, if anything
        trainer.validate(module, data, ckpt_path=checkpoint, verbose=False, weights_only=False)
    else:
        if checkpoint is not None and _lacks_evaluation(checkpoint, config["evaluation"]["every"]):
            trainer.validate(module, data, ckpt_path=checkpoint, verbose=False, weights_only=False)
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=False)
    if module.history.dapo_steps not in module.history.evaluations:
        trainer.validate(module, data, verbose=False)
    weights = full_state_dict(module.model) if is_sharded(module.model) else None  # all ranks take part
    if trainer.is_global_zero:
        module.worker.policy.save(folder / "policy", weights)
        _finish(module, data, folder)
    return module.history.evaluations[module.history.dapo_steps][f"avg@{config['evaluation']['num_completions']}"]


def _lacks_evaluation(checkpoint: Path, every: int) -> bool:
    """Whether the run was stopped in the evaluation that was due."""
    history = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=False)["history"]
    return history["dapo_steps"] % every == 0 and history["dapo_steps"] not in history["evaluations"]


def _finish(module: DAPOModule, data: PromptDataModule, folder: Path) -> None:
    """Summary and curves."""
    saved, seconds = read_config(folder), dict(module.clock.seconds)
    summary = summarize(module.history, seconds, data.counts, saved["choices"], saved["seed"], folder)
    write_summary(summary, folder / "summary.json")
    if (folder / "metrics.csv").exists():  # else logger.csv=null
        draw_curves(folder)
    print(as_text(summary))


def evaluate(config: Mapping[str, Any], module: DAPOModule, data: PromptDataModule, trainer: L.Trainer) -> float:
    """Evaluates, leaves summary.json and evaluation.jsonl, and returns avg@k."""
    trainer.validate(module, data, ckpt_path=config["checkpoint"], verbose=False, weights_only=False)
    metrics = module.history.evaluations[module.history.dapo_steps]
    if trainer.is_global_zero:
        summary = summarize_evaluation(config, metrics, data.counts)
        write_summary(summary, Path(config["run_folder"]) / "summary.json")
        print(evaluation_as_text(summary))
    return metrics[f"avg@{config['evaluation']['num_completions']}"]
