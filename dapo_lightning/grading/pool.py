"""The pool: it grades items in child processes that can be killed, one outcome per item, in order, always.

Pebble's ProcessPool cannot replace it: its parent unpickles what workers write to a pipe that they share, so a worker
taken over by hostile text runs code in the parent, and one that writes garbage stalls the pool (tried with 5.2).
"""

from __future__ import annotations

import asyncio
import atexit
import math
import pickle
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from dapo_lightning.grading import child as protocol
from dapo_lightning.grading.child import Outcome
from dapo_lightning.grading.permissions import Permissions
from dapo_lightning.grading.process import Child, GradingError

_MAX_CHUNK = 64


class GradingPool:
    """Child processes that grade items with `factory(**options)`, each replaced when an item takes it down.

    The outcome is "timeout" for an item that exceeds its time (its child is killed with all that it started), "memory"
    for one that needs too much memory, "crash" for one that ends the interpreter, and "error" for one on which the
    grader raises or returns anything but at most a megabyte of JSON. Threads may share a pool.

    Args:
        factory: dotted path of a callable; each child calls `factory(**options)` to get the grader, which is called
            with one item and returns a JSON value.
        options: keyword arguments of the factory. They and the items must be picklable.
        num_workers: number of items graded at once; one more child waits, to replace another. An item that takes a
            tenth of its time limit gets a child for itself, of which there are at most four times as many.
        seconds: wall-clock time limit of an item of size 1.
        megabytes: growth allowed to the address space of a child, once its grader is built (Linux only).
        allow: what children may see and reach, see `Permissions.of`.

    Raises:
        ValueError: naming the key, if a number makes no sense.
    """

    def __init__(
        self,
        factory: str,
        options: Mapping[str, Any],
        num_workers: int,
        seconds: float,
        megabytes: int,
        allow: Sequence[str] = (),
    ) -> None:
        for name, number in (("num_workers", num_workers), ("megabytes", megabytes)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"reward.{name}={number}: must be a whole number, at least 1.")
        if not 0 < seconds < math.inf:
            raise ValueError(f"reward.seconds={seconds}: must be a positive number of seconds.")
        self._factory, self._hello = factory, protocol.frame((factory, dict(options), megabytes))
        self.permissions = Permissions.of(allow)
        self._num_workers, self._seconds = num_workers, seconds
        self._lock = threading.Lock()  # of the next three; all else belongs to the thread of the event loop
        self._closed = False
        self._thread: threading.Thread | None = None
        self._started: Future[None]
        self._idle: asyncio.Queue[Child] = asyncio.Queue()
        self._spare: Child | None = None
        self._num_slow = 0  # items that have a child for themselves
        self._children: set[Child] = set()
        self._closing = asyncio.Event()

    def start(self) -> None:
        """Starts the children and waits until each has built its grader; does nothing the second time.

        Raises:
            GradingError: with the child's reason, if the grader cannot be built; or if the pool is closed.
        """
        with self._lock:
            self._check_open()
            if self._thread is None:
                atexit.register(self.close)
                self.permissions.hide_memory()
                self._loop = asyncio.new_event_loop()
                self._started = self._run(self._start_children())
                # The kernel kills the children when this thread ends. It is a daemon, because `close` ends it.
                self._thread = threading.Thread(
                    target=self._loop.run_until_complete, args=[self._serve()], name="grading", daemon=True
                )
                self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self.close()
            raise

    def submit(self, items: Sequence[Any], sizes: Sequence[int] | None = None) -> Future[list[Outcome]]:
        """Queues items, starting the pool if necessary, and returns their outcomes to come, one per item, in order.

        They raise GradingError if the pool is closed before, or a killed child cannot be replaced.

        Args:
            sizes: factors of the time limit, one per item (default 1).

        Raises:
            ValueError: unless `sizes` are as many positive numbers as there are items.
            GradingError: as `start` does.
        """
        sizes = [1] * len(items) if sizes is None else sizes
        if len(sizes) != len(items) or any(size <= 0 for size in sizes):
            raise ValueError(f"{len(items)} items need as many positive sizes, not {list(sizes)!r:.200}.")
        self.start()
        pickles, limits = [pickle.dumps(item) for item in items], [self._seconds * size for size in sizes]
        with self._lock:
            self._check_open()
            return self._run(self._grade_all(pickles, limits))

    def close(self) -> None:
        """Kills the children; outcomes not yet known raise GradingError. The interpreter's exit does this, too."""
        with self._lock:
            if self._thread is not None and not self._closed:
                self._loop.call_soon_threadsafe(self._closing.set)
            self._closed = True
        if self._thread is not None:
            self._thread.join()
            self._loop.close()
            atexit.unregister(self.close)

    def _check_open(self) -> None:
        if self._closed:
            raise GradingError("the grading pool is closed.")

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(_until_closed(work), self._loop)

    async def _serve(self) -> None:
        await self._closing.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for child in self._children:
            child.end()

    async def _start_children(self) -> None:
        for child in await asyncio.gather(*(self._take() for _ in range(self._num_workers))):
            self._idle.put_nowait(child)

    async def _grade_all(self, items: Sequence[bytes], limits: Sequence[float]) -> list[Outcome]:
        step = min(_MAX_CHUNK, max(1, math.ceil(len(items) / (4 * self._num_workers))))
        parts = [slice(start, start + step) for start in range(0, len(items), step)]
        chunks = await asyncio.gather(*(self._grade(items[part], limits[part]) for part in parts))
        return [outcome for chunk in chunks for outcome in chunk]

    async def _grade(self, items: Sequence[bytes], limits: Sequence[float]) -> list[Outcome]:
        child = await self._idle.get()
        outcomes: list[Outcome | asyncio.Task[Outcome]] = []
        try:
            while (done := len(outcomes)) < len(items):
                if child.is_disturbed():
                    child.end()
                    child = await self._take()
                graded, is_slow = await child.grade(items[done:], limits[done:], self._may_leave)
                outcomes += graded
                if is_slow:  # it keeps the child for itself, and another child grades those behind it
                    outcomes.append(asyncio.create_task(self._finish(child, limits[len(outcomes)])))
                    child = await self._take()
        finally:
            self._idle.put_nowait(child)
        return [outcome if isinstance(outcome, Outcome) else await outcome for outcome in outcomes]

    def _may_leave(self) -> bool:
        return self._num_slow < 4 * self._num_workers

    async def _finish(self, child: Child, limit: float) -> Outcome:
        self._num_slow += 1
        try:
            return await child.finish(limit)
        finally:
            self._num_slow -= 1

    async def _take(self) -> Child:
        """Returns a child that is ready, usually the spare one, and starts the next spare one."""
        for _ in range(3):
            child, self._spare = self._spare or self._spawn(), None
            await child.wait_until_ready(self._factory)
            with suppress(GradingError):  # without a spare child, the next replacement takes longer
                self._spare = self._spare or self._spawn()
            if not child.is_disturbed():
                return child
            child.end()
        raise GradingError(f"grader {self._factory}: its processes end before they receive an item.")

    def _spawn(self) -> Child:
        child = Child(self._hello, self.permissions)
        self._children = {child, *(other for other in self._children if not other.ended)}
        return child


async def _until_closed(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except asyncio.CancelledError:
        raise GradingError("the grading pool is closed.") from None
