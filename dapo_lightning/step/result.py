"""The result of a DAPO step, and the counters that a run keeps over its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dapo_lightning.algorithm.tokens import Reduced
from dapo_lightning.draws.fill import Batch
from dapo_lightning.step.experience import MiniBatch


@dataclass(frozen=True)
class Update:
    """One gradient step.

    Args:
        is_taken: whether the optimizer took its step; if not, the step was skipped and the weights did not change.
        loss: sum over all ranks.
        gradient_norm: norm before clipping.
        num_tokens: tokens of the loss mask on all ranks.
        metrics: metrics of all ranks, by name.
        problem: which value was not finite; None if all were, or if the mini-batch held no tokens.
    """

    is_taken: bool
    loss: float = 0.0
    gradient_norm: float = 0.0
    num_tokens: int = 0
    metrics: Mapping[str, Reduced] = field(default_factory=dict)
    problem: str | None = None

    def skipped_in_a_row(self, before: int) -> int:
        """Returns how many gradient steps in a row were skipped for a problem, given the number before this one."""
        return 0 if self.is_taken else before + (self.problem is not None)


@dataclass(frozen=True)
class StepResult:
    """The result of one DAPO step, which callbacks receive.

    Args:
        number: number of DAPO steps done, including this one.
        batch: the groups trained on, and the records of all groups generated.
        mini_batches: this rank's rows in each gradient step, with their advantages and weights.
        updates: the gradient steps.
        metrics: all logged metrics, by name.
    """

    number: int
    batch: Batch
    mini_batches: tuple[MiniBatch, ...]
    updates: tuple[Update, ...]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class History:
    """Counters of a run. They are saved in checkpoints, so that a resumed run reports all of its steps.

    `evaluations` maps the number of DAPO steps done to held-out metrics. `skipped_in_a_row` counts the gradient steps
    that were skipped because a value was not finite, since the last one that was taken.
    """

    dapo_steps: int = 0
    gradient_steps: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    groups_generated: int = 0
    groups_used_up: int = 0
    groups_useful: int = 0
    tokens_generated: int = 0
    tokens_trained: int = 0
    evaluations: Mapping[int, Mapping[str, float]] = field(default_factory=dict)

    def after(self, batch: Batch, updates: tuple[Update, ...]) -> History:
        """The history that includes one more DAPO step."""
        num_taken, in_a_row = sum(update.is_taken for update in updates), self.skipped_in_a_row
        for update in updates:
            in_a_row = update.skipped_in_a_row(in_a_row)
        return replace(
            self,
            dapo_steps=self.dapo_steps + 1,
            gradient_steps=self.gradient_steps + num_taken,
            skipped_steps=self.skipped_steps + len(updates) - num_taken,
            skipped_in_a_row=in_a_row,
            groups_generated=self.groups_generated + len(batch.records),
            groups_used_up=self.groups_used_up + sum(batch.reasons.values()),
            groups_useful=self.groups_useful + batch.reasons.get("useful", 0),
            tokens_generated=self.tokens_generated + sum(sum(record.num_tokens) for record in batch.records),
            tokens_trained=self.tokens_trained + sum(update.num_tokens for update in updates if update.is_taken),
        )

    @property
    def evaluation(self) -> Mapping[str, float]:
        """Held-out metrics of the current weights, which must have been evaluated."""
        return self.evaluations[self.dapo_steps]

    def evaluated(self, metrics: Mapping[str, float]) -> History:
        """The history that includes an evaluation of the current weights."""
        return replace(self, evaluations={**self.evaluations, self.dapo_steps: metrics})

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def loaded(self, state: Mapping[str, Any]) -> History:
        """Returns the history of a checkpoint. An evaluation that this process has made at the same step is kept."""
        made = {step: metrics for step, metrics in self.evaluations.items() if step == state["dapo_steps"]}
        return History(**{**state, "evaluations": {**state["evaluations"], **made}})
