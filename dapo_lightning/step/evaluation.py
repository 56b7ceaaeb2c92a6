"""Accumulates the validation batches of one evaluation on held-out prompts."""

from __future__ import annotations

from contextlib import ExitStack

from torch import nn

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.sharding import gathered
from dapo_lightning.draws.graded import require_grades, warn_of_failures
from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.step.metrics import evaluation_metrics
from dapo_lightning.types import Group


class Evaluation:
    """Collects the groups of one evaluation. Sharded weights stay gathered from `start` to `finish`."""

    def __init__(self) -> None:
        self._records: list[GroupRecord] = []
        self._whole_weights = ExitStack()

    def start(self, model: nn.Module) -> None:
        self._records = []
        self._whole_weights.enter_context(gathered(model))

    def add(self, groups: list[Group]) -> None:
        self._records += [GroupRecord.of(group) for group in groups]

    def finish(self) -> dict[str, float]:
        """Returns the metrics over the prompts of all ranks.

        Raises:
            RewardError: if nothing could be graded.
        """
        self._whole_weights.close()
        records = Ranks.current().gather(self._records)
        require_grades(records, "evaluation")
        warn_of_failures(records, "evaluation")
        return evaluation_metrics(records)
