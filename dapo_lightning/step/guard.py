"""Warns about problems in a DAPO step, and ends a run whose values stay NaN or infinite."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_only

from dapo_lightning.draws.fill import Batch
from dapo_lightning.draws.graded import Failures
from dapo_lightning.rollout.finite import NotFiniteError
from dapo_lightning.step.result import History, Update

log = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 5  # gradient steps


def check(batch: Batch, updates: Sequence[Update], history: History, failures: Failures) -> None:
    """Warns if a batch is short of groups, if completions could not be graded, or if gradient steps were skipped.

    Args:
        history: counters of the run before this step.

    Raises:
        RewardError: see `Failures`.
        NotFiniteError: if too many gradient steps in a row were skipped because a value was not finite.
    """
    step, in_a_row = history.dapo_steps + 1, history.skipped_in_a_row
    failures.report(batch.used, f"step {step}", is_first_step=step == 1)
    if batch.warning:
        _warn("step %d: %s", step, batch.warning)
    for update in updates:
        in_a_row = update.skipped_in_a_row(in_a_row)
        if update.problem:
            _warn("step %d: %s, so the gradient step was skipped.", step, update.problem)
        if in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise NotFiniteError(
                f"{in_a_row} gradient steps in a row were skipped, the last one because {update.problem}. "
                "Lower optimizer.lr, or check the reward function and the last checkpoint."
            )


_warn = rank_zero_only(log.warning)  # all ranks have the same information
