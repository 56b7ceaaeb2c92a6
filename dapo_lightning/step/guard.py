"""Warnings of a DAPO step, and the end of a run whose values stay NaN or infinite."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_only

from dapo_lightning.draws.fill import Batch
from dapo_lightning.step.result import History, Update

log = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 5  # gradient steps


class NotFiniteError(RuntimeError):
    """Rewards, losses or gradients stayed NaN or infinite."""


def check(batch: Batch, updates: Sequence[Update], history: History) -> None:
    """Warns of a batch that is short of groups, and of gradient steps that were skipped.

    Args:
        history: of the run, with this step.

    Raises:
        NotFiniteError: if too many gradient steps in a row were skipped because a value was not finite.
    """
    problems = [update.problem for update in updates if update.problem]
    for warning in [*([batch.warning] if batch.warning else []), *(f"{problem}; skipped." for problem in problems)]:
        _warn("step %d: %s", history.dapo_steps, warning)
    if history.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise NotFiniteError(
            f"{history.skipped_in_a_row} updates in a row were skipped; the last because {problems[-1]}. "
            "Lower optimizer.lr, or look at the reward function and at the last checkpoint."
        )


_warn = rank_zero_only(log.warning)  # all ranks know the same
