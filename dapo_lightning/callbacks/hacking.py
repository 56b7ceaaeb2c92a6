"""Warns if the reward of the training rises while held-out completions, graded by another reward, become worse."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dapo_lightning.reward import Reward
from dapo_lightning.step.evaluation import EvaluatedModule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """An evaluation of a held-out set, and the mean reward of the training since the evaluation before it."""

    step: int
    reward: float
    accuracy: float
    half_width: float  # of the 95 % interval of the accuracy


class HackingAlarm:
    """Compares the training reward with each set of `evaluation.sets` that has a reward of its own, and warns once for
    each of them if the two part.

    Args:
        patience: number of evaluations in a row in which the training reward is higher, and the held-out accuracy
            lower by more than its 95 % interval, than at the evaluation with the highest accuracy.
    """

    def __init__(self, patience: int):
        self._patience = patience
        self._rewards: list[float] = []  # of the steps since the last evaluation
        self._points: dict[str, list[tuple[int, float, float, float]]] = {}
        self._told: list[str] = []

    def add_step(self, reward: float) -> None:
        """Takes the mean reward of a DAPO step."""
        self._rewards.append(reward)

    def add_evaluation(self, module: EvaluatedModule, training_reward: Reward) -> None:
        """Takes the latest evaluation, and warns."""
        step, metrics = module.history.dapo_steps, module.history.evaluation
        if not self._rewards:  # no step since the last evaluation
            return
        reward, self._rewards = fmean(self._rewards), []
        for name, held_out in module.held_out.items():
            metric = f"{name}/avg@{held_out.num_completions}"
            if held_out.worker.reward is training_reward or metric not in metrics:
                continue
            points = self._points.setdefault(name, [])
            points.append((step, reward, metrics[metric], metrics.get(f"{metric}_ci95", 0.0)))
            found = parted([Point(*point) for point in points], self._patience)
            if found and name not in self._told:
                self._told.append(name)
                _warn_of(metric, *found)

    def state_dict(self) -> dict[str, Any]:
        return {"rewards": self._rewards, "points": self._points, "told": self._told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rewards, self._told = list(state["rewards"]), list(state["told"])
        self._points = {name: [tuple(point) for point in points] for name, points in state["points"].items()}


def _warn_of(metric: str, best: Point, last: Point) -> None:
    log.warning(
        "step %d: the mean reward in training rose from %.3f to %.3f since step %d, but validation/%s fell from %.3f "
        "to %.3f (± %.3f). The policy may exploit the reward: read completions with a high score in report.html, and "
        "correct the reward or stop.",
        last.step, best.reward, last.reward, best.step, metric, best.accuracy, last.accuracy, last.half_width,
    )  # fmt: skip


def parted(points: Sequence[Point], patience: int) -> tuple[Point, Point] | None:
    """Returns the evaluation with the highest accuracy and the last one, if the two curves have parted."""
    best = max(points, key=lambda point: point.accuracy)
    last = points[-patience:]
    has_parted = len(points) > patience and all(
        point.step > best.step and point.reward > best.reward and best.accuracy - point.accuracy > point.half_width
        for point in last
    )
    return (best, last[-1]) if has_parted else None
