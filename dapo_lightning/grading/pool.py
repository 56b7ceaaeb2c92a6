"""The parent's side: grades items in child processes that can be killed, one outcome per item, in order, always."""

from __future__ import annotations

import atexit
import math
import pickle
import queue
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from dapo_lightning.grading import child as protocol
from dapo_lightning.grading.child import Outcome
from dapo_lightning.grading.process import Child, GradingError

_MAX_CHUNK = 64


@dataclass(frozen=True)
class Pending:
    """The outcomes of one submit, some of which may still be to come."""

    _parts: list[Future[list[Outcome]]]

    def result(self) -> list[Outcome]:
        """Waits for all outcomes and returns them, in order, one per item.

        Raises GradingError if the pool was closed before, or a killed child could not be replaced.
        """
        return [outcome for part in self._parts for outcome in part.result()]


class GradingPool:
    """Child processes that grade items with `factory(**options)`, and are replaced when an item takes one down.

    An item that exceeds its time is a "timeout", and its child is killed with all that it started; one that needs too
    much memory is a "memory"; one that ends the interpreter a "crash"; one on which the grader raises, or returns what
    is not JSON or over a megabyte of it, an "error". Threads may share a pool.

    Args:
        factory: dotted path of a callable; `factory(**options)` is called in each child and returns the grader, which
            is called with one item and returns a JSON value.
        options: keyword arguments of the factory. They and the items must be picklable.
        num_workers: how many items are graded at once; one more child waits, to replace another.
        seconds: wall-clock time limit of an item of size 1.
        megabytes: by how much the address space of a child may grow beyond what the built grader takes (Linux only).

    Raises ValueError, naming the key, if a number makes no sense.
    """

    def __init__(
        self, factory: str, options: Mapping[str, Any], num_workers: int, seconds: float, megabytes: int
    ) -> None:
        for name, number in (("num_workers", num_workers), ("megabytes", megabytes)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"reward.{name}={number}: must be a whole number, at least 1.")
        if not 0 < seconds < math.inf:
            raise ValueError(f"reward.seconds={seconds}: must be a positive number of seconds.")
        self._factory = factory
        self._hello = pickle.dumps((factory, dict(options), megabytes))
        self._num_workers = num_workers
        self._seconds = seconds
        self._chunks: queue.SimpleQueue[_Chunk | None] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._children: weakref.WeakSet[Child] = weakref.WeakSet()
        self._spare: Child | None = None
        self._closed = False
        self._starting = threading.Lock()
        self._lock = threading.Lock()  # of the children, and of what may only happen while open

    def start(self) -> None:
        """Starts the children and waits until each has built its grader; does nothing the second time.

        Raises GradingError if the grader cannot be built, with the child's reason, or the pool is closed.
        """
        with self._starting:
            self._check_open()
            if not self._workers:
                atexit.register(self.close)
                self._workers = [_Worker(self) for _ in range(self._num_workers)]
                for worker in self._workers:
                    worker.start()
            try:
                for worker in self._workers:
                    worker.started.result()
            except BaseException:
                self.close()
                raise

    def submit(self, items: Sequence[Any], sizes: Sequence[int] | None = None) -> Pending:
        """Queues items, starting the pool if need be; `sizes` multiply the time limit of each (default 1).

        Raises ValueError if `sizes` are not as many positive numbers as there are items, GradingError as `start` does.
        """
        sizes = [1] * len(items) if sizes is None else sizes
        if len(sizes) != len(items) or any(size <= 0 for size in sizes):
            raise ValueError(f"{len(items)} items need as many positive sizes, not {list(sizes)!r:.200}.")
        self.start()
        limits = [self._seconds * size for size in sizes]
        requests = [protocol.frame(pickle.dumps(item)) for item in items]
        step = min(_MAX_CHUNK, max(1, math.ceil(len(items) / (4 * self._num_workers))))
        parts = [slice(start, start + step) for start in range(0, len(items), step)]
        chunks = [_Chunk(requests[part], limits[part]) for part in parts]
        with self._lock:
            self._check_open()
            for chunk in chunks:
                self._chunks.put(chunk)
        return Pending([chunk.outcomes for chunk in chunks])

    def close(self) -> None:
        """Kills the children; results still to come raise GradingError. Also done when the interpreter exits."""
        with self._lock:
            self._closed = True
            for child in self._children:
                child.kill()  # their workers see it, and put them away
            for _ in self._workers:
                self._chunks.put(None)
        for worker in filter(threading.Thread.is_alive, self._workers):
            worker.join()
        if self._spare is not None:
            self._spare.end()
        atexit.unregister(self.close)

    def _check_open(self) -> None:
        if self._closed:
            raise GradingError("the grading pool is closed.")

    def _take(self) -> Child:
        """A child that has built its grader, mostly the spare one; the next spare is started.

        Only for the pool's own threads: the kernel kills a child when the thread that started it ends.
        """
        with self._lock:
            child, self._spare = self._spare or self._spawn(), None
        try:
            child.wait_until_ready(self._factory)
        except GradingError:
            child.end()
            self._check_open()  # or close is the reason
            raise
        with self._lock, suppress(GradingError):  # without a spare, the next one who needs it waits
            self._spare = self._spare or self._spawn()
        return child

    def _spawn(self) -> Child:
        self._check_open()
        child = Child(self._hello)
        self._children.add(child)
        return child


@dataclass(frozen=True)
class _Chunk:
    """Consecutive items of one submit, as frames, with their time limits."""

    requests: list[bytes]
    limits: list[float]
    outcomes: Future[list[Outcome]] = field(default_factory=Future)


class _Worker(threading.Thread):
    """Grades chunk after chunk with one child at a time, replaced when an item has taken it down."""

    def __init__(self, pool: GradingPool) -> None:
        super().__init__(name="grading", daemon=True)  # the interpreter closes the pool before it ends
        self.started: Future[None] = Future()
        self._pool = pool
        self._child: Child | None = None

    def run(self) -> None:
        try:
            self._child_at_hand()
        except Exception as error:
            self.started.set_exception(error)
            return
        self.started.set_result(None)
        for chunk in iter(self._pool._chunks.get, None):
            try:
                chunk.outcomes.set_result(self._grade(chunk))
            except Exception as error:  # whatever it is, nobody must wait forever
                chunk.outcomes.set_exception(error)
                self._drop()
        self._drop()

    def _grade(self, chunk: _Chunk) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while len(outcomes) < len(chunk.requests):
            child = self._child_at_hand()
            child.send(chunk.requests[len(outcomes) :])
            while len(outcomes) < len(chunk.requests) and not child.ended:
                is_fresh = child.num_answers == 0
                outcome = child.outcome(chunk.limits[len(outcomes)])
                # What earlier items left in memory is not this one's fault: it has another try in a fresh child.
                if outcome.failure != "memory" or is_fresh:
                    outcomes.append(outcome)
            self._pool._check_open()  # or the last outcome may be of close's doing
        return outcomes

    def _child_at_hand(self) -> Child:
        for _ in range(3):
            if self._child is not None and not self._child.is_disturbed():
                return self._child
            self._drop()
            self._child = self._pool._take()
        raise GradingError(f"grader {self._pool._factory}: its processes end before they are given anything to grade.")

    def _drop(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None
