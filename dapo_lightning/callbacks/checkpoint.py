"""Checkpoints that survive a kill at any moment."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from dapo_lightning.callbacks.held_out import Mode, best_step, held_out
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.shards import read_whole, take_shards, write_shards
from dapo_lightning.policy.digest import Digest, digest_of
from dapo_lightning.rollout.finite import NotFiniteError
from dapo_lightning.step.checkpoint import not_finite
from dapo_lightning.step.result import History
from dapo_lightning.utils.atomic import flush, replacing
from dapo_lightning.utils.checkpoints import (
    CHECKSUMS,
    MAIN,
    PARTS,
    all_checkpoints,
    checksum,
    main_file,
    remove,
    steps_done,
)

log = logging.getLogger(__name__)


class Stopped(SystemExit):
    """Ends the process between two DAPO steps because of a signal; all ranks raise it together."""

    def __init__(self, number: signal.Signals):
        super().__init__(128 + number)


class NotSavedError(Exception):
    """A checkpoint could not be saved; earlier checkpoints are intact."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file, flushes it to disk and renames it, so that a checkpoint is either complete or absent.

    (Lightning writes to the system's temporary folder. If that is on another disk, its final move is a copy.)

    Raises:
        NotSavedError: if the disk is full, if the folder was removed, or if the checkpoint contains objects other than
            plain values and tensors, which would not be loaded again because they may run code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        try:
            if shards := take_shards(checkpoint):
                _save_folder(checkpoint, shards, Path(path))
            else:
                _save_file(checkpoint, Path(path))
        except (OSError, RuntimeError, CheckpointException) as error:  # torch's own error hides that of the system
            causes = (error, error.__context__, *(e for e, _ in getattr(error, "failures", {}).values()))
            reason = next((e.strerror for e in causes if isinstance(e, OSError)), None) or error
            if "unexpected pos" in str(reason):  # torch writes files without Python, and keeps no reason
                reason = "not all of it could be written, as when the disk is full or a quota is used up"
            raise NotSavedError(
                f"{path} could not be saved: {str(reason).rstrip('.')}. Earlier checkpoints are intact: once the "
                "problem is solved, the run can be continued."
            ) from None

    main_file = staticmethod(main_file)  # for strategies

    def load_checkpoint(self, path: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Loads a whole checkpoint, even if it was saved in parts."""
        checkpoint = super().load_checkpoint(main_file(Path(path)), *arguments, **options)
        return read_whole(checkpoint, Path(path)) if Path(path).is_dir() else checkpoint


def _save_file(checkpoint: dict[str, Any], path: Path) -> None:
    with replacing(path) as partial:
        torch.save(checkpoint, partial)
        if foreign := get_unsafe_globals_in_checkpoint(partial):
            raise NotSavedError(
                f"{path} was not saved: it contains objects of {', '.join(sorted(foreign))}. state_dict() must return "
                "only plain values and tensors, because nothing else is loaded."
            )
        if path.is_dir():  # a damaged checkpoint of the same step, by several ranks
            remove(path)


def _save_folder(checkpoint: dict[str, Any], shards: Mapping[str, DTensor], path: Path) -> None:
    """All ranks write their parts into a temporary folder together; the first one renames it."""
    ranks, partial = Ranks.current(), path.with_suffix(".partial")
    if ranks.rank == 0:
        remove(partial)
        partial.mkdir()
    ranks.wait()
    write_shards(shards, partial)
    mine = sorted(partial.glob(f"shard-{ranks.rank + 1:05}-{PARTS}"))
    for part in mine:
        flush(part)
    checksums = dict(ranks.gather([(part.name, checksum(part)) for part in mine]))
    if ranks.rank == 0:
        _save_file(checkpoint, partial / MAIN)
        with replacing(partial / CHECKSUMS) as file:
            file.write_text(json.dumps(checksums, indent=2), encoding="utf-8")
        remove(path)
        partial.rename(path)
        with suppress(OSError):  # some network file systems cannot flush folders
            flush(path.parent)


class AtomicCheckpoint(Checkpoint):
    """Saves `step_NNNNNN.ckpt` between DAPO steps: periodically, after the last step, when an error ends the run, and
    after each evaluation that is the best so far.

    Args:
        every: DAPO steps between checkpoints.
        keep: number of newest checkpoints that are kept.
        best: a held-out metric, such as `validation/avg@8`; the checkpoint with its best value is kept as well.
        mode: whether larger (max) or smaller (min) values are better.
        export: which checkpoint becomes the trained policy at the end of a run, the newest or the best one.

    Raises:
        ValueError: if a number is too small, or if the best policy is wanted without a metric.
    """

    def __init__(
        self,
        folder: str,
        every: int,
        keep: int,
        best: str | None = None,
        mode: Mode = "max",
        export: Literal["newest", "best"] = "newest",
    ):
        if every < 1 or keep < 1:
            raise ValueError(f"callbacks.checkpoint: every={every} and keep={keep} must be at least 1.")
        if export == "best" and best is None:
            raise ValueError("callbacks.checkpoint.export=best needs callbacks.checkpoint.best=<metric>.")
        self.folder, self.every, self.keep = Path(folder), every, keep
        self.best, self.mode, self.export = best, mode, export
        self._last_saved = 0
        self._updating: int | None = None  # DAPO steps done when the latest update began
        self._policy: Digest = {}

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Takes the digest of the policy before its weights are sharded or trained."""
        self._policy = self._policy or digest_of(pl_module.worker.policy, pl_module.algorithm.kl.needs_reference)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Saves before the next step rather than after the last one, so that the evaluation between them is
        included."""
        steps = pl_module.history.dapo_steps
        is_best = trainer.strategy.broadcast(self.best_step(pl_module.history) == steps)  # saving is a collective
        if steps % self.every == 0 or (is_best and steps > 0):
            self._save(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        self._updating = pl_module.history.dapo_steps

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Saves the last step while the epoch is still open, so that a finished run can be given more steps. It is also
        the last one if the time limit (`trainer.max_time`) is reached."""
        if pl_module.history.dapo_steps == trainer.num_training_batches or trainer.should_stop:
            self._save(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Saves the last step if the evaluation ends the run. Refuses an unknown metric after the first evaluation."""
        self.best_step(pl_module.history)
        if trainer.state.fn == "fit" and trainer.should_stop:
            self._save(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Saves the state before the step that failed, unless its update has begun. With several ranks it saves only if
        all stopped together, because saving is a collective."""
        alone = trainer.world_size == 1 or isinstance(exception, Stopped)
        between_updates = trainer.state.fn == "fit" and self._updating != pl_module.history.dapo_steps
        if alone and between_updates and not_finite(pl_module.state_dict()) is None:
            try:
                self._save(trainer, pl_module)
            except NotSavedError as error:
                log.error("%s", error)  # the run ends with the first exception

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Sets Lightning's loop counters to the number of DAPO steps done, with no step or evaluation in progress. No
        batch is marked as the last one, so that `num_steps` can be raised. Lightning's own values depend on the hook
        that saved: a second resume, or one after an interrupted evaluation, would skip batches. Adds the digest of the
        policy."""
        loops, steps = checkpoint["loops"]["fit_loop"], pl_module.history.dapo_steps
        training, validation = loops["epoch_loop.batch_progress"], loops["epoch_loop.val_loop.batch_progress"]
        training["is_last_batch"] = False
        for scope in ("total", "current"):
            training[scope] = dict.fromkeys(training[scope], steps)
            validation[scope] = dict.fromkeys(validation[scope], 0)
        checkpoint["policy"] = self._policy

    def best_step(self, history: History) -> int | None:
        """Returns the DAPO step of the best evaluation whose weights are saved, or are the current ones."""
        if self.best is None:
            return None
        values = held_out(history.evaluations, self.best, "callbacks.checkpoint.best")
        there = {*map(steps_done, all_checkpoints(self.folder)), history.dapo_steps}
        saved = {step: value for step, value in values.items() if step in there}
        return best_step(saved, self.mode) if saved else None

    def state_dict(self) -> dict[str, Any]:
        return {"last_saved": self._last_saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._last_saved = state_dict["last_saved"]

    def _save(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Saves on all ranks together, unless this step is saved; later steps of an earlier session, which are being
        repeated, disappear.

        Raises:
            NotFiniteError: if a weight is not finite.
        """
        steps = pl_module.history.dapo_steps
        if steps == self._last_saved:
            return
        bad = not_finite(pl_module.state_dict())
        if not trainer.strategy.reduce_boolean_decision(bad is None, all=True):
            raise NotFiniteError(
                f"the weights after DAPO step {steps} are not finite ({bad or 'on another rank'}), so they were not "
                "saved. Continue from the last checkpoint, or start again with a lower optimizer.lr."
            )
        self._last_saved = steps
        if trainer.is_global_zero:
            self.folder.mkdir(exist_ok=True)
        trainer.save_checkpoint(self.folder / f"step_{steps:06d}.ckpt", weights_only=False)  # a collective
        if trainer.is_global_zero:
            saved = all_checkpoints(self.folder)
            later = [path for path in saved if steps_done(path) > steps]
            halves = self.folder.glob("*.partial")  # a kill may leave these
            best = self.best_step(pl_module.history)
            olds = [path for path in saved[: len(saved) - len(later)][: -self.keep] if steps_done(path) != best]
            for old in [*olds, *later, *halves]:
                remove(old)
