"""The held-out evaluations of a module, beside its training."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import lightning as L
from transformers import PreTrainedModel

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.datamodule import HeldOutBatch
from dapo_lightning.draws.graded import Failures, require_grades
from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.draws.worker import RolloutWorker
from dapo_lightning.step.metrics import evaluation_metrics
from dapo_lightning.step.result import History
from dapo_lightning.types import Generation, Group
from dapo_lightning.utils.clock import Clock


@dataclass(frozen=True)
class HeldOut:
    """How completions of a held-out set are sampled and graded, and after which DAPO steps: None means in every
    evaluation."""

    worker: RolloutWorker
    generation: Generation
    num_completions: int
    steps: Collection[int] | None = None


class EvaluatedModule(L.LightningModule):
    """Evaluates the policy on held-out prompts, with the same noise in every evaluation.

    Attributes:
        held_out: each set by its name; that of the set that belongs to the training data is empty.
    """

    model: PreTrainedModel
    clock: Clock
    history: History

    def start_evaluating(self, held_out: Mapping[str, HeldOut]) -> None:
        """Takes what evaluations need, when the module is built."""
        self.held_out = dict(held_out)
        self._failures = {name: Failures(one.worker.reward.on_error) for name, one in held_out.items()}
        self._records: dict[str, list[GroupRecord]] = {}
        self._rollout_ready = ExitStack()

    @property
    def due(self) -> list[str]:
        """The names of the sets that are evaluated after this DAPO step."""
        step = self.history.dapo_steps
        return [name for name, one in self.held_out.items() if one.steps is None or step in one.steps]

    @property
    def failures(self) -> Failures:
        """Those of the reward of the training."""
        return self._failures[""]

    def close_rewards(self) -> None:
        """Ends what the rewards have started."""
        for one in self.held_out.values():
            one.worker.reward.close()

    def on_validation_epoch_start(self) -> None:
        """Prepares the rollout, which uses the current weights until the end of the evaluation."""
        self._records = {name: [] for name in self.due}
        with self.clock("evaluate"):
            self._rollout_ready.enter_context(self.held_out[""].worker.ready())

    def validation_step(self, batch: HeldOutBatch, batch_idx: int) -> dict[str, list[Group]]:
        """Samples and grades completions, unless the set is not due."""
        if batch.name not in self._records:
            return {"groups": []}
        one, stream = self.held_out[batch.name], f"validation/{batch.name}" if batch.name else "validation"
        with self.clock("evaluate"):
            groups = one.worker(batch.prompts, one.num_completions, one.generation, stream)
        self._records[batch.name] += [GroupRecord.of(group) for group in groups]
        return {"groups": groups}

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics over the prompts of all ranks, as `validation/<metric>` or `validation/<set>/<metric>`.

        Raises:
            RewardError: if nothing could be graded.
        """
        self._rollout_ready.close()
        metrics: dict[str, float] = {}
        for name, mine in self._records.items():
            one, records = self.held_out[name], Ranks.current().gather(mine)
            where = f"evaluation of {name}" if name else "evaluation"
            require_grades(records, where)
            self._failures[name].report(records, where)
            prefix = f"{name}/" if name else ""
            of_set = evaluation_metrics(records, one.worker.reward)
            metrics |= {f"{prefix}{metric}": value for metric, value in of_set.items()}
        self.history = self.history.evaluated(metrics)
        logged = {f"validation/{name}": value for name, value in metrics.items()}
        self.log_dict(logged | {"step": float(self.history.dapo_steps)}, rank_zero_only=True)
