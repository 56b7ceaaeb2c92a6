"""What both sides of `time_to_accuracy` share: arguments, the run as Hydra composes it, the evaluator and the clock."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from dapo_lightning.draws.datamodule import PromptDataModule
from dapo_lightning.run.build import build
from dapo_lightning.step.module import DAPOModule

ROOT = Path(__file__).parent.parent
MARK = "point "  # lines of standard output that start so are points of the curve


@dataclass(frozen=True)
class Run:
    """One side's run, set up alike: policy after the warm start, reward, prompts, and the curve to record."""

    config: DictConfig
    module: DAPOModule
    data: PromptDataModule
    curve: Curve


def set_up(description: str | None, *options: tuple[str, int]) -> tuple[Run, argparse.Namespace]:
    """Reads the command line and builds the run; `options` are further ones, with their defaults."""
    parser = argparse.ArgumentParser(description=description)
    for name, default in (("seed", 0), ("rollouts", 40), ("every", 2), ("threads", 2), *options):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, the same for both sides")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    fixed = (f"seed={arguments.seed}", f"num_steps={arguments.rollouts}", "trainer.accelerator=cpu", "run_folder=none")
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        config = compose("config", overrides=[*fixed, *arguments.overrides])
    module, data = build(config)
    return Run(config, module, data, Curve(module, data, arguments.every)), arguments


class Curve:
    """Held-out avg@k over wall seconds of training, printed point by point as JSON.

    The clock runs from the start of training, over all that the trainer does, and stands still while a point is taken.
    Both sides are sampled by the same code, with the same noise, at every point.
    """

    def __init__(self, module: DAPOModule, data: PromptDataModule, every: int):
        self._module, self._data, self._every = module, data, every
        self._seconds = self._resumed_at = 0.0

    def start(self) -> None:
        """The point before training; then the clock starts."""
        self._take_point(0, 0)

    def after(self, num_rollouts: int, num_completions: int) -> None:
        """To be called after every rollout is trained on, with what was done since the start."""
        if num_rollouts % self._every == 0:
            self._seconds += time.perf_counter() - self._resumed_at
            self._take_point(num_rollouts, num_completions)

    def _take_point(self, num_rollouts: int, num_completions: int) -> None:
        point = {
            "rollouts": num_rollouts,
            "seconds": self._seconds,
            "completions": num_completions,
            "accuracy": self._accuracy(),
        }
        print(MARK + json.dumps(point), flush=True)
        self._resumed_at = time.perf_counter()

    def _accuracy(self) -> float:
        module, model = self._module, self._module.model
        was_training = model.training
        model.eval()
        batches = self._data.val_dataloader()
        worker, held_out = module.worker, module.held_out[""]
        count, generation = held_out.num_completions, held_out.generation
        groups = [group for batch in batches for group in worker(batch.prompts, count, generation, "validation")]
        model.train(was_training)
        return fmean(group.num_correct / group.size for group in groups)
