"""The held-out evaluations of a module, beside its training."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import lightning as L
from transformers import PreTrainedModel

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.sharding import gathered
from dapo_lightning.draws.graded import Failures, require_grades
from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.draws.worker import RolloutWorker
from dapo_lightning.step.metrics import evaluation_metrics
from dapo_lightning.step.result import History
from dapo_lightning.types import Generation, Group, NumberedPrompt
from dapo_lightning.utils.clock import Clock


@dataclass(frozen=True)
class HeldOut:
    """How completions of held-out prompts are sampled and graded."""

    worker: RolloutWorker
    generation: Generation
    num_completions: int


class EvaluatedModule(L.LightningModule):
    """Evaluates the policy on held-out prompts, with the same noise in every evaluation.

    Attributes:
        held_out: how prompts are sampled and graded.
    """

    model: PreTrainedModel
    clock: Clock
    history: History
    held_out: HeldOut

    def start_evaluating(self, held_out: HeldOut) -> None:
        """Takes what an evaluation needs, when the module is built."""
        self.held_out, self.failures = held_out, Failures(held_out.worker.reward.on_error)
        self._records: list[GroupRecord] = []
        self._whole_weights = ExitStack()

    def on_validation_epoch_start(self) -> None:
        """Gathers sharded weights, which stay whole until the end of the evaluation."""
        self._records = []
        self._whole_weights.enter_context(gathered(self.model))

    def validation_step(self, prompts: list[NumberedPrompt], batch_idx: int) -> dict[str, list[Group]]:
        """Samples and grades completions."""
        held_out = self.held_out
        with self.clock("evaluate"):
            groups = held_out.worker(prompts, held_out.num_completions, held_out.generation, "validation")
        self._records += [GroupRecord.of(group) for group in groups]
        return {"groups": groups}

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics over the prompts of all ranks.

        Raises:
            RewardError: if nothing could be graded.
        """
        self._whole_weights.close()
        records = Ranks.current().gather(self._records)
        require_grades(records, "evaluation")
        self.failures.report(records, "evaluation")
        metrics = evaluation_metrics(records, self.held_out.worker.reward)
        self.history = self.history.evaluated(metrics)
        metrics = {f"validation/{name}": value for name, value in metrics.items()}
        self.log_dict(metrics | {"step": float(self.history.dapo_steps)}, rank_zero_only=True)
