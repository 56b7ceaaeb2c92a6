"""The parent's side of a grading child: a process, a socket, and the outcomes of items.

Everything in this file runs in the thread of the pool's event loop.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from dapo_lightning.grading import child as protocol
from dapo_lightning.grading.child import Outcome
from dapo_lightning.grading.permissions import Permissions

_SLOW = 0.1  # of its time limit: an item that takes longer no longer delays the items after it
_START_SECONDS = 120.0  # for a child to import what its grader needs, on a busy machine

_EXIT_SECONDS = 0.5


class GradingError(RuntimeError):
    """The grader cannot be built, its processes cannot be started, or the pool is closed. No item is at fault."""


class Child:
    """A child process and the parent's end of its socket.

    Args:
        hello: the first request, (factory, options, megabytes), as a frame.
        permissions: what it may access.
    """

    def __init__(self, hello: bytes, permissions: Permissions) -> None:
        self._is_isolated = permissions.isolated
        try:
            self._socket, theirs = socket.socketpair()
            with theirs:
                arguments, environment = _command(theirs.fileno(), permissions)
                blocked = signal.pthread_sigmask(signal.SIG_BLOCK, protocol.RUN_SIGNALS)  # until it has its handlers
                try:
                    self._process = subprocess.Popen(  # never a fork: the parent has threads
                        arguments,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=2,
                        pass_fds=[theirs.fileno()],
                        start_new_session=True,
                    )
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        except OSError as error:
            raise GradingError(f"cannot start a grading process: {error}") from error
        with suppress(OSError):  # the first outcome reports what went wrong
            self._socket.sendall(hello)
        self._socket.setblocking(False)
        self._received = bytearray()
        self._num_answers = protocol.READY
        self.ended = False

    async def wait_until_ready(self, factory: str) -> None:
        """Waits until the grader is built.

        Raises:
            GradingError: with the child's reason, if that fails.
        """
        if self._num_answers == protocol.READY:
            outcome = await self._next_outcome(_START_SECONDS)
            if outcome.failure is not None:
                self.end()
                reason = outcome.detail or f"not built within {_START_SECONDS:g} seconds"
                raise GradingError(f"grader {factory}: {reason}")

    def is_disturbed(self) -> bool:
        """Returns whether the child has ended, or has sent something without a request."""
        if self.ended or self._received:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    async def grade(
        self, items: Sequence[bytes], limits: Sequence[float], may_leave: Callable[[], bool]
    ) -> tuple[list[Outcome], bool]:
        """Grades these pickled items, each with its time limit in seconds, and returns their outcomes in order.

        The outcomes stop at an item that ends the child. They also stop before a slow item that other items follow, if
        `may_leave` permits leaving it to `finish`; the second value says whether this has happened.

        The child reads all items before it answers the first one, so the two sides never wait for each other.
        """
        with suppress(OSError):  # the first outcome reports what went wrong
            async with asyncio.timeout(limits[0]):
                await asyncio.get_running_loop().sock_sendall(self._socket, protocol.frame(items))
        outcomes: list[Outcome] = []
        for index, limit in enumerate(limits):
            is_fresh = self._num_answers == 0
            if index < len(limits) - 1 and not await self._answers_within(_SLOW * limit) and may_leave():
                return outcomes, True
            outcome = await self._next_outcome(limit)
            # Earlier items may have used up the memory, so this item is tried again in a new child.
            if outcome.failure != "memory" or is_fresh:
                outcomes.append(outcome)
            if self.ended:
                break
        return outcomes, False

    async def finish(self, limit: float) -> Outcome:
        """Returns the outcome of the item that `grade` has left, and ends the child, whose queue holds other items."""
        outcome = await self._next_outcome(limit)
        self.end()
        return outcome

    def end(self) -> int:
        """Kills the child and all processes that it has started, reaps it, and returns its exit code."""
        if not self.ended:  # after it is reaped, another process may have the same id
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self.ended = True
        self._socket.close()
        code = self._process.wait()
        return 128 - code if self._is_isolated and code > 128 else code  # bubblewrap reports signals as shells do

    async def _next_outcome(self, seconds: float) -> Outcome:
        try:
            return await self._answer(seconds)
        except (OSError, ValueError) as error:
            if self._is_isolated and isinstance(error, ConnectionError):
                await self._until_ended()
            code = self.end()
            if isinstance(error, TimeoutError) and code == -signal.SIGKILL:
                return Outcome(None, "timeout")
            if code == protocol.OUT_OF_MEMORY:
                return Outcome(None, "memory")
            reason = f"exit code {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"
            return Outcome(None, "crash", f"not an answer: {error}" if isinstance(error, ValueError) else reason)

    async def _until_ended(self) -> None:
        """Waits for the exit code, because the sandbox ends a little later than the child in it. The wait is limited,
        because a child that has only closed its socket does not end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_SECONDS):
                while self._process.poll() is None:
                    await asyncio.sleep(0.002)

    async def _answer(self, seconds: float) -> Outcome:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        is_last_look = False
        while (outcome := protocol.take_answer(self._received, self._num_answers)) is None:
            if is_last_look:
                raise TimeoutError
            await self._until_readable(deadline - loop.time())
            is_last_look = loop.time() >= deadline  # an answer that has arrived counts, however late this thread runs
            with suppress(BlockingIOError):
                data = self._socket.recv(2**16)
                if not data:
                    raise ConnectionError
                self._received += data
        self._num_answers += 1
        return outcome

    async def _answers_within(self, seconds: float) -> bool:
        if b"\n" not in self._received and not self.is_disturbed():
            await self._until_readable(seconds)
        return self.is_disturbed()

    async def _until_readable(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._socket, readable.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await readable.wait()
        finally:
            loop.remove_reader(self._socket)


def _command(descriptor: int, permissions: Permissions) -> tuple[list[str], dict[str, str]]:
    """Returns the arguments and the environment of a child that can import everything that this process can import, and
    modules in the current folder."""
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in [*sys.path, ""])
    # With a fixed hash seed, sets have the same order in every child, so equal items get equal grades.
    environment = {"PYTHONHASHSEED": "0", **permissions.environment(), "PYTHONPATH": path}
    parent = 0 if permissions.isolated else os.getpid()  # in isolation, the ids of other processes are not visible
    child = [sys.executable, "-P", "-m", protocol.__name__, str(descriptor), str(parent)]
    return permissions.command(child), environment
