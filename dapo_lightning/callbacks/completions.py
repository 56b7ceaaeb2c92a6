"""Shows samples of completions in the loggers that show tables."""

from __future__ import annotations

from typing import Any

import lightning as L

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.types import Group

COLUMNS = ("prompt", "completion", "answer", "score", "tokens", "truncated")


class SampleCompletions(L.Callback):
    """Shows the first completions of the first groups that were trained on, every `every` DAPO steps.

    Args:
        every: DAPO steps between samples; the first step is always included.
    """

    def __init__(self, every: int, num_groups: int, num_completions: int):
        self.every, self.num_groups, self.num_completions = every, num_groups, num_completions

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, groups = outputs["step"].number, outputs["step"].batch.groups[: self.num_groups]
        if not (step == 1 or step % self.every == 0):
            return
        found = dict(Ranks.current().gather([(group.number, self._rows(group)) for group in groups if group.texts]))
        rows = [row for _, of_group in sorted(found.items()) for row in of_group]
        for logger in trainer.loggers if trainer.is_global_zero else []:
            if hasattr(logger, "log_table"):
                logger.log_table("completions", columns=list(COLUMNS), data=rows, step=step)

    def _rows(self, group: Group) -> list[list[Any]]:
        return [
            [
                group.prompt.text,
                group.texts[i],
                group.prompt.answer,
                group.grades[i].score,
                group.trajectories[i].num_tokens,
                group.trajectories[i].truncated,
            ]
            for i in range(min(self.num_completions, group.size))
        ]
