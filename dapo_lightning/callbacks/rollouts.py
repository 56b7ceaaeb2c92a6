"""Writes every completion of every DAPO step, trained on or not, to Parquet files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pyarrow.parquet as pq

from dapo_lightning.callbacks.fates import fates
from dapo_lightning.callbacks.rollout_table import as_table, group_rows
from dapo_lightning.callbacks.token_record import token_records
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.step.experience import Row
from dapo_lightning.step.module import DAPOModule
from dapo_lightning.step.result import StepResult
from dapo_lightning.utils.atomic import replacing

log = logging.getLogger(__name__)


class Rollouts(L.Callback):
    """Writes one file per DAPO step and rank, atomically, with a row for each completion.

    If the files exceed `megabytes`, every second of the recorded steps is removed, and from then on only every second
    step is recorded, so that the record covers the whole run evenly.

    Args:
        tokens_every: DAPO steps between records of single tokens, which cost a forward pass; the first step is always
            included. None: no such records, and nothing is computed for them.
        tokens_num_groups: number of groups trained on whose tokens are recorded.
    """

    def __init__(self, folder: str, megabytes: float, tokens_every: int | None, tokens_num_groups: int):
        self.folder, self.megabytes = Path(folder), megabytes
        self.tokens_every, self.tokens_num_groups = tokens_every, tokens_num_groups
        self._every = 1  # steps between the recorded steps
        self._bytes: dict[int, int] = {}  # size of the files of a step, of all ranks

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Removes the files that an earlier session wrote after its checkpoint, because those steps are repeated."""
        if trainer.is_global_zero:
            self.folder.mkdir(exist_ok=True)
            for partial in self.folder.glob("*.partial"):
                partial.unlink()
            self._remove(lambda step: step > pl_module.history.dapo_steps)
        trainer.strategy.barrier()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        result, ranks = outputs["step"], Ranks.current()
        if result.number % self._every:
            return
        table = as_table(self._rows(pl_module, result, ranks))
        name = f"step_{result.number:06d}" + (f"_rank_{ranks.rank}" if ranks.size > 1 else "")
        path = self.folder / f"{name}.parquet"
        with replacing(path) as partial:
            pq.write_table(table, partial, compression="zstd")
        self._bytes[result.number] = sum(ranks.gather([path.stat().st_size]))
        while sum(self._bytes.values()) > self.megabytes * 2**20 and len(self._bytes) > 1:
            self._thin(trainer.is_global_zero)

    def _rows(self, module: DAPOModule, result: StepResult, ranks: Ranks) -> list[dict[str, Any]]:
        passes = (row for mini_batch in result.mini_batches for row in mini_batch.rows)
        rows = list({row.origin: row for row in passes}.values())  # with num_epochs, each is trained on several times
        columns = {row.origin: {"advantage": mean_advantage(row)} for row in rows}
        if self.tokens_every is not None and (result.number == 1 or result.number % self.tokens_every == 0):
            numbers = {group.number for group in result.batch.groups[: self.tokens_num_groups]}
            chosen = [row for row in rows if row.origin[0] in numbers]
            for row, record in zip(chosen, token_records(module, chosen), strict=True):
                columns[row.origin] |= record
        trained = dict(ranks.gather(list(columns.items())))  # a completion may be trained on by another rank
        penalty = module.algorithm.overlong.penalty
        return [
            row
            for group, verdict, fate in fates(result.batch, ranks)
            for row in group_rows(result.number, group, verdict, fate, penalty(group.lengths_G()), trained)
        ]

    def _thin(self, is_first_rank: bool) -> None:
        """Removes every second recorded step."""
        self._every *= 2
        self._bytes = {step: size for step, size in self._bytes.items() if step % self._every == 0}
        if is_first_rank:
            self._remove(lambda step: step % self._every != 0)
            log.warning(
                "%s has reached callbacks.rollouts.megabytes=%g: from now on it holds only DAPO steps divisible by %d; "
                "the others are removed", self.folder, self.megabytes, self._every,
            )  # fmt: skip

    def _remove(self, is_unwanted: Callable[[int], bool]) -> None:
        for path in self.folder.glob("step_*.parquet"):
            if is_unwanted(int(path.stem.split("_")[1])):
                path.unlink()

    def state_dict(self) -> dict[str, Any]:
        return {"every": self._every, "bytes": dict(self._bytes)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._every, self._bytes = state_dict["every"], dict(state_dict["bytes"])


def mean_advantage(row: Row) -> float:
    """The mean over the tokens that the policy wrote. (Those of messages between its turns have none.)"""
    mask_T = row.trajectory.loss_mask_T
    return float(row.advantages.expand(len(mask_T))[mask_T].mean())
