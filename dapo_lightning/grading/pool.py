"""The pool: it grades items in child processes that can be killed, and always returns one outcome per item, in order.

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
    """Child processes that grade items with `factory(**options)`. A child that an item crashes is replaced.

    The outcome is "timeout" for an item that exceeds its time limit (its child is killed, with all processes that it
    has started), "memory" for an item that needs too much memory, "crash" for an item that ends the interpreter, and
    "error" if the grader raises an exception, or returns anything but at most a megabyte of JSON. Threads may share a
    pool.

    Args:
        factory: dotted path of a callable; each child calls `factory(**options)` to get the grader, which is called
            with one item and returns a JSON value.
        options: keyword arguments of the factory. They and the items must be picklable.
        num_workers: number of items that are graded at once. One more child is kept ready as a replacement. An item
            that has taken a tenth of its time limit gets a child for itself; at most four times `num_workers` items do.
        seconds: wall-clock time limit of an item of size 1.
        megabytes: by how much the address space of a child may grow after its grader is built (Linux only).
        allow: what children may access: permissions, or what `Permissions.of` reads.

    Raises:
        ValueError: naming the key, if a number is invalid.
    """

    def __init__(
        self,
        factory: str,
        options: Mapping[str, Any],
        num_workers: int,
        seconds: float,
        megabytes: int,
        allow: Sequence[str] | str | Permissions | None = (),
    ) -> None:
        for name, number in (("num_workers", num_workers), ("megabytes", megabytes)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"reward.{name}={number}: must be a whole number, at least 1.")
        if not 0 < seconds < math.inf:
            raise ValueError(f"reward.seconds={seconds}: must be a positive number of seconds.")
        self._factory, self._hello = factory, protocol.frame((factory, dict(options), megabytes))
        self.permissions = allow if isinstance(allow, Permissions) else Permissions.of(allow)
        self._num_workers, self._seconds = num_workers, seconds
        self._lock = (
            threading.Lock()
        )  # for the next three attributes; only the thread of the event loop uses the others
        self._closed = False
        self._thread: threading.Thread | None = None
        self._started: Future[None]
        self._idle: asyncio.Queue[Child] = asyncio.Queue()
        self._spare: Child | None = None
        self._num_slow = 0  # items that have a child for themselves
        self._children: set[Child] = set()
        self._closing = asyncio.Event()

    def start(self) -> None:
        """Starts the children and waits until each has built its grader. Further calls do nothing.

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
        """Queues items, starting the pool if necessary, and returns a future of their outcomes, one per item, in order.

        The future raises GradingError if the pool is closed first, or if a killed child cannot be replaced.

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
        """Kills the children; pending futures raise GradingError. This also happens when the interpreter exits."""
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
                if is_slow:  # it keeps the child for itself, and another child grades the items after it
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
        raise GradingError(f"grader {self._factory}: its processes end before they receive any item.")

    def _spawn(self) -> Child:
        child = Child(self._hello, self.permissions)
        self._children = {child, *(other for other in self._children if not other.ended)}
        return child


async def _until_closed(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except asyncio.CancelledError:
        raise GradingError("the grading pool is closed.") from None
