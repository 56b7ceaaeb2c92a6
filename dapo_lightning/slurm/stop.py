"""Stops a run between two DAPO steps after a signal. Under SLURM, the job is then requeued."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L

from dapo_lightning.callbacks.checkpoint import Stopped
from dapo_lightning.slurm import job as slurm
from dapo_lightning.utils.checkpoints import latest

log = logging.getLogger(__name__)

TIME_LIMIT = signal.SIGUSR1  # `sbatch --signal=USR1@<seconds>` sends it so many seconds before the time limit
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, TIME_LIMIT)  # SIGHUP: the terminal or connection is gone
SPARE_SECONDS = 15.0
GATHERING_SECONDS = 300.0  # for ranks to find each other, plus five times the time that this rank took to load
_OF_TRAINING = ("no checkpoint was saved", "save more often (callbacks.checkpoint.every)")
_OF_EVALUATION = ("the evaluation did not finish, and it saves no progress,", "lower evaluation.num_prompts")


class Stop(L.Callback):
    """Ends training before the next DAPO step, and an evaluation before its next batch, once any rank has received
    SIGTERM, SIGHUP, Ctrl-C or SLURM's warning. A second Ctrl-C ends the process at once.

    It is active only within `listening`, where it replaces Lightning's signal handlers. Those would start a collective
    while each rank is at another point of its work, and would save a checkpoint in the middle of a step. Until the
    ranks have found each other, signals end the process as usual, because there is nothing to save. If the ranks do not
    find each other in time, the process ends.

    Args:
        checkpoints: folder of the run's checkpoints.
    """

    def __init__(self, checkpoints: str | Path):
        self.checkpoints = Path(checkpoints)
        self.received: list[signal.Signals] = []
        self._is_listening = self._is_evaluation = False
        self._first_checkpoint: Path | None = None  # the newest checkpoint at the start
        self._job_ends_at: float | None = None  # on the monotonic clock, as is the next value
        self._last_step_began: float | None = None
        self._longest_step = 0.0  # seconds, including the evaluation after the step
        self._is_over = threading.Event()
        self._is_requeued = False
        self._is_first_rank = True
        self._numbers = list(SIGNALS)
        self._is_set_up = threading.Event()
        self._made_at = time.monotonic()

    @contextmanager
    def listening(self, for_evaluation: bool = False) -> Iterator[None]:
        """Handles signals within the context. A SLURM job that reaches its time limit or is preempted is requeued after
        the run has stopped, or just before the limit if the current step takes too long.

        Args:
            for_evaluation: whether the run is an evaluation, which saves no progress and starts again when requeued.
        """
        self._is_evaluation = for_evaluation
        self._first_checkpoint = latest(self.checkpoints)
        if slurm.in_job() and slurm.is_first_task():
            threading.Thread(target=self._watch_time, daemon=True).start()
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self._numbers = [number for number, handler in handlers.items() if handler is not signal.SIG_IGN]  # nohup
        self._is_listening = True
        threading.Thread(target=self._watch_gathering, daemon=True).start()
        try:
            yield
        except Stopped:
            if not self._is_first_rank:
                sys.exit(0)  # Lightning or SLURM may end the first rank if another process fails
            if slurm.in_job() and not slurm.is_cancelled():
                self._requeue()
            raise
        finally:
            self._is_listening = False
            self._is_over.set()
            self._is_set_up.set()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Starts handling signals, because all ranks have found each other."""
        self._is_set_up.set()
        self._install_handlers()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replaces the handlers that Lightning has just installed."""
        self._install_handlers()

    on_validation_start = on_train_start

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Stops all ranks together."""
        self._is_first_rank = trainer.is_global_zero
        self._check_time()
        if trainer.strategy.reduce_boolean_decision(bool(self.received), all=False):
            received = self.received[0] if self.received else signal.SIGTERM
            log.warning("stopped by %s after DAPO step %d", received.name, pl_module.history.dapo_steps)
            raise Stopped(received)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stops an evaluation; one of training only after Ctrl-C and in a single process. Each rank stops alone,
        because ranks may have different numbers of batches. The warning before the time limit is ignored: stopping then
        would save nothing."""
        asked = [number for number in self.received if number != TIME_LIMIT]
        is_alone = trainer.world_size == 1 and signal.SIGINT in asked
        if (self._is_evaluation or is_alone) and asked:
            self._is_first_rank = trainer.is_global_zero
            log.warning("stopped by %s during the evaluation", asked[0].name)
            raise Stopped(asked[0])

    def _install_handlers(self) -> None:
        if self._is_listening:
            for number in self._numbers:
                if number not in self.received:
                    signal.signal(number, self._receive)

    def _receive(self, number: int, _: Any) -> None:
        self.received.append(signal.Signals(number))
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            if self._is_first_rank:
                os.write(2, b"\nstopping and saving; Ctrl-C once more ends the run at once\n")

    def _check_time(self) -> None:
        """Stops, and thereby saves, if a step as long as the longest so far would exceed the time limit."""
        now = time.monotonic()
        if self._last_step_began is not None:
            self._longest_step = max(self._longest_step, now - self._last_step_began)
        self._last_step_began = now
        if self._job_ends_at is not None and now + self._longest_step > self._job_ends_at - SPARE_SECONDS:
            log.warning("not enough time for another DAPO step like the longest so far (%.0f s)", self._longest_step)
            self.received.append(TIME_LIMIT)

    def _watch_gathering(self) -> None:
        """Runs in a thread, because a rank that waits for others handles no signals, and torch waits half an hour."""
        seconds = GATHERING_SECONDS + 5 * (time.monotonic() - self._made_at)
        if not self._is_set_up.wait(seconds):
            log.error(
                "the other processes of this run did not connect within %.0f s; see their error messages", seconds
            )
            os._exit(1)

    def _watch_time(self) -> None:
        """Runs in a thread, because a main thread that waits for other ranks does not handle signals."""
        while (left := slurm.seconds_left()) is not None:
            self._job_ends_at = time.monotonic() + left
            if left <= SPARE_SECONDS:
                log.warning("the DAPO step or evaluation cannot finish before the time limit and will be repeated")
                self._requeue()
                return
            if self._is_over.wait(left - SPARE_SECONDS):
                return

    def _requeue(self) -> None:
        makes_room = signal.SIGTERM in self.received  # was preempted, perhaps long before the time limit
        if self._is_requeued:
            return
        if latest(self.checkpoints) == self._first_checkpoint and not makes_room:
            log.error(
                "not requeued: %s within the time limit of this job. Raise it with hydra.launcher.timeout_min or %s, "
                "and start the sweep again.", *_OF_EVALUATION if self._is_evaluation else _OF_TRAINING,
            )  # fmt: skip
            return
        if refusal := slurm.requeue():
            log.error("not requeued: %s. Start the sweep again: it continues where it stopped.", refusal)
            return
        self._is_requeued = True
        log.warning("requeued: the run will continue from %s", latest(self.checkpoints) or "its beginning")
