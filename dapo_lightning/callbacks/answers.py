"""Warns if a run cannot learn, because the reward finds no answers or no group is useful."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import lightning as L

from dapo_lightning.distributed.ranks import Ranks

log = logging.getLogger(__name__)

_FEW = 0.1  # share of completions with an answer


class AnswerWarnings(L.Callback):
    """Warns after an evaluation in which hardly any completion contains an answer that the reward can read, and after a
    run without a gradient step."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[bool, bool]]] = {}  # by set, for each completion: has an answer, is truncated

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._found = {name: [] for name in pl_module.held_out}

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        self._found[batch.name] += [
            (grade.answer is not None, trajectory.truncated)
            for group in outputs["groups"]
            for grade, trajectory in zip(group.grades, group.trajectories, strict=True)
            if grade.failure is None
        ]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Counts the completions of all ranks; the first rank warns."""
        for name, mine in self._found.items():
            form = pl_module.held_out[name].worker.reward.answer_form
            found = Ranks.current().gather(mine)
            if trainer.is_global_zero and form is not None:
                _warn_of_missing(found, form, f"evaluation of {name}" if name else "evaluation")

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        history = pl_module.history
        if trainer.is_global_zero and history.dapo_steps and not history.gradient_steps:
            log.warning(
                "none of the %d DAPO steps had a gradient step, so the policy has not changed. "
                "%d of %d groups had both correct and wrong completions; see evaluation.jsonl for how they are graded.",
                history.dapo_steps, history.groups_useful, history.groups_used_up,
            )  # fmt: skip


def _warn_of_missing(found: Sequence[tuple[bool, bool]], form: str, where: str) -> None:
    missing = [is_truncated for has_answer, is_truncated in found if not has_answer]
    if len(found) - len(missing) > _FEW * len(found) or not missing:
        return
    log.warning(
        "no answer found in %d of %d completions of the %s (%d of them are truncated at max_new_tokens), so they count "
        "as wrong. The reward looks for %s. Ask the policy for an answer in this form, in the prompts or with "
        "policy.system_prompt=...; if most completions are truncated, raise max_new_tokens.",
        len(missing), len(found), where, sum(missing), form,
    )  # fmt: skip
