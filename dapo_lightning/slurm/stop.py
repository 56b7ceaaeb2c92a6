"""A run that is told to stop does so between two DAPO steps; under SLURM its job starts again."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L

from dapo_lightning.callbacks.checkpoint import Stopped, latest
from dapo_lightning.slurm import job as slurm

log = logging.getLogger(__name__)

TIME_IS_UP = signal.SIGUSR1  # what `sbatch --signal=USR1@seconds` sends, that long before a job's time limit
SIGNALS = (signal.SIGTERM, TIME_IS_UP)
SECONDS_TO_SPARE = 15.0


class Stop(L.Callback):
    """Ends the run before the next DAPO step once any rank is told to, by SIGTERM or SLURM's warning.

    Lightning's own handlers are replaced: they start a collective inside the handler, wherever each rank is then, and
    save a checkpoint in the middle of a step.

    Args:
        checkpoints: the folder that the run saves them to.
    """

    def __init__(self, checkpoints: Path):
        self.checkpoints = checkpoints
        self.told: list[signal.Signals] = []
        self._began_with: Path | None = None
        self._job_ends_at: float | None = None  # by the monotonic clock, as is the next
        self._last_step_began: float | None = None
        self._longest_step = 0.0  # seconds, with the evaluation that came after it
        self._is_over = threading.Event()
        self._is_requeued = False
        self._is_first = True  # rank

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Heeds signals for the block. A SLURM job that is not cancelled (its time is up, or another job needs the
        room) is requeued: once the run has stopped, or, if its step takes too long, just before the time limit."""
        self._began_with = latest(self.checkpoints)
        if slurm.in_job() and slurm.is_first_task():
            threading.Thread(target=self._watch_time, daemon=True).start()
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self._listen()
        try:
            yield
        except Stopped:
            if not self._is_first:
                sys.exit(0)  # a process that ends badly may take the first with it, be it started by Lightning or SLURM
            if slurm.in_job() and not slurm.is_cancelled():
                self._requeue()
            raise
        finally:
            self._is_over.set()
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()  # Lightning has put its own in place

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._is_first = trainer.is_global_zero
        self._look_at_time()
        if trainer.strategy.reduce_boolean_decision(bool(self.told), all=False):
            told = self.told[0] if self.told else signal.SIGTERM
            log.warning("stopped by %s after DAPO step %d", told.name, pl_module.history.dapo_steps)
            raise Stopped(told)

    def _listen(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._tell)

    def _tell(self, number: int, _: FrameType | None) -> None:
        self.told.append(signal.Signals(number))

    def _look_at_time(self) -> None:
        """Stops before a step that would not end in time, if it took as long as the longest so far: it saves then."""
        now = time.monotonic()
        if self._last_step_began is not None:
            self._longest_step = max(self._longest_step, now - self._last_step_began)
        self._last_step_began = now
        if self._job_ends_at is not None and now + self._longest_step > self._job_ends_at - SECONDS_TO_SPARE:
            log.warning("no time for a DAPO step like the longest so far (%.0f s)", self._longest_step)
            self.told.append(TIME_IS_UP)

    def _watch_time(self) -> None:
        """In a thread, as this process may be waiting for other ranks, deaf to signals, when the time is up."""
        while (left := slurm.seconds_left()) is not None:
            self._job_ends_at = time.monotonic() + left
            if left <= SECONDS_TO_SPARE:
                log.warning("the time is up before the DAPO step or evaluation is done: it will be done again")
                self._requeue()
                return
            if self._is_over.wait(left - SECONDS_TO_SPARE):
                return

    def _requeue(self) -> None:
        if self._is_requeued:
            return
        makes_room = signal.SIGTERM in self.told  # for another job: that says nothing of the time that it had
        if latest(self.checkpoints) == self._began_with and not makes_room:
            log.error(
                "not requeued: no checkpoint was saved in the time that this job had. Give it more time "
                "(hydra.launcher.timeout_min) or save more often (callbacks.checkpoint.every), and start the sweep "
                "again: it goes on where it stopped."
            )
            return
        why_not = slurm.requeue()
        if why_not:
            log.error("not requeued: %s. Start the sweep again: it goes on where it stopped.", why_not)
        else:
            self._is_requeued = True
            log.warning("requeued: the run goes on from %s", latest(self.checkpoints))
