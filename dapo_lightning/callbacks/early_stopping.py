"""Ends a run once a held-out metric is good enough, or no longer improves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import lightning as L

from dapo_lightning.callbacks.held_out import Mode, best_step, held_out

log = logging.getLogger(__name__)


class EarlyStopping(L.Callback):
    """Ends a run after an evaluation, and saves it. All evaluations of the run count, including those of earlier
    sessions.

    Args:
        metric: a held-out metric, such as `validation/avg@8`; None never ends a run.
        mode: whether larger (max) or smaller (min) values are better.
        threshold: ends the run once the metric is at least as good as this.
        patience: ends the run after so many evaluations in a row without a new best value.

    Raises:
        ValueError: if a metric lacks a threshold or patience, or the other way round.
    """

    def __init__(
        self,
        metric: str | None = None,
        mode: Mode = "max",
        threshold: float | None = None,
        patience: int | None = None,
    ):
        if (metric is None) != (threshold is None and patience is None):
            raise ValueError(
                f"callbacks.early_stopping: metric={metric}, threshold={threshold} and patience={patience}: a metric "
                "needs a threshold or patience (or both), and these need a metric, such as metric=validation/avg@8."
            )
        self.metric, self.mode, self.threshold, self.patience = metric, mode, threshold, patience
        self.reason: str | None = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Also reads the metric after the evaluation before training, so that an unknown metric is refused then."""
        if self.metric is None:
            return
        self.reason = self._reason(
            held_out(pl_module.history.evaluations, self.metric, "callbacks.early_stopping.metric")
        )
        if self.reason and trainer.state.fn == "fit":
            log.info("ends after DAPO step %d: %s", pl_module.history.dapo_steps, self.reason)
            trainer.should_stop = True

    def _reason(self, values: Mapping[int, float]) -> str | None:
        best, last = best_step(values, self.mode), max(values)
        reached = {"max": values[last] >= (self.threshold or 0), "min": values[last] <= (self.threshold or 0)}
        if self.threshold is not None and reached[self.mode]:
            return f"{self.metric} is {values[last]:.4g} (threshold {self.threshold})"
        since = sum(step > best for step in values)
        if self.patience is not None and since >= self.patience:
            return f"{self.metric} has not improved in {since} evaluations since step {best} ({values[best]:.4g})"
        return None
