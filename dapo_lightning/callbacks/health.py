"""Warns of a collapsing policy while the run can still be stopped."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L

from dapo_lightning.callbacks.hacking import HackingAlarm

log = logging.getLogger(__name__)


class HealthWarnings(L.Callback):
    """Warns once per run when entropy, and once when accuracy, has collapsed; and once for each held-out set whose own
    reward contradicts that of the training.

    Args:
        min_entropy_share: warns when entropy falls below this share of its value in the first step while accuracy is
            below 0.9 (low entropy is no problem in a policy that solves its prompts).
        min_accuracy_share: warns when accuracy, smoothed over about ten steps, falls below this share of its maximum.
        hacking_patience: see `HackingAlarm`.
    """

    def __init__(self, min_entropy_share: float, min_accuracy_share: float, hacking_patience: int = 3):
        self._hacking = HackingAlarm(hacking_patience)
        self.min_entropy_share, self.min_accuracy_share = min_entropy_share, min_accuracy_share
        self._state = {"first_entropy": 0.0, "smooth": 0.0, "best": 0.0, "warned_entropy": 0.0, "warned_accuracy": 0.0}
        self.warnings: list[str] = []  # of all sessions; they appear in the summary

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not trainer.is_global_zero:
            return
        state, result = self._state, outputs["step"]
        self._hacking.add_step(result.metrics["reward/mean"])
        step, entropy, accuracy = result.number, result.metrics["entropy"], result.metrics["accuracy"]
        if step == 1:
            state |= {"first_entropy": entropy, "smooth": accuracy}
        state["smooth"] += 0.1 * (accuracy - state["smooth"])
        state["best"] = max(state["best"], state["smooth"])
        collapsed = entropy < self.min_entropy_share * state["first_entropy"] and accuracy < 0.9
        if collapsed and not state["warned_entropy"]:
            state["warned_entropy"] = 1.0
            self._warn(
                f"step {step}: entropy collapsed from {state['first_entropy']:.3f} to {entropy:.3f}, so groups will "
                "soon have no variance to learn from. Raise clip.upper or temperature, or lower optimizer.lr; "
                "resume=<run folder> changes=true optimizer.lr=<lower> continues this run with another value."
            )
        if state["smooth"] < self.min_accuracy_share * state["best"] and not state["warned_accuracy"]:
            state["warned_accuracy"] = 1.0
            self._warn(
                f"step {step}: accuracy fell from {state['best']:.2f} to {state['smooth']:.2f}. Lower optimizer.lr: "
                "resume=<run folder> changes=true optimizer.lr=<lower> continues this run."
            )

    def _warn(self, text: str) -> None:
        log.warning("%s", text)
        self.warnings.append(text)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self._hacking.add_evaluation(pl_module, pl_module.worker.reward)

    def state_dict(self) -> dict[str, Any]:
        return {**self._state, "warnings": list(self.warnings), "hacking": self._hacking.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        self.warnings = list(state.pop("warnings", ()))
        if hacking := state.pop("hacking", None):
            self._hacking.load_state_dict(hacking)
        self._state.update(state)
