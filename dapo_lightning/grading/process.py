"""One grading child as its parent sees it: a process, a socket, and whatever becomes of the next item."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from dapo_lightning.grading import child as protocol
from dapo_lightning.grading.child import Outcome

_START_SECONDS = 120.0  # for a child to import what its grader needs, on a busy machine


class GradingError(RuntimeError):
    """The grader cannot be built, its processes cannot be started, or the pool is closed: no fault of an item."""


class Child:
    """A child process and the parent's end of its socket, for one thread at a time, except `kill`."""

    def __init__(self, hello: bytes) -> None:
        try:
            self._socket, theirs = socket.socketpair()
            with theirs:
                arguments, environment = protocol.command(theirs.fileno())
                with _blocking(protocol.SIGNALS_OF_THE_RUN):  # until it can do something about them
                    self._process = subprocess.Popen(  # never a fork: the parent has threads
                        arguments,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=2,
                        pass_fds=[theirs.fileno()],
                        start_new_session=True,
                    )
        except OSError as error:
            raise GradingError(f"cannot start a grading process: {error}") from error
        self._socket.setblocking(False)
        self._poll = select.poll()
        self.send([protocol.frame(hello)])
        self._received = bytearray()
        self.num_answers = protocol.READY
        self.ended = False
        self._reaping = threading.Lock()

    def wait_until_ready(self, factory: str) -> None:
        """Waits until the grader is built; raises GradingError if that fails."""
        if self.num_answers == protocol.READY:
            outcome = self.outcome(_START_SECONDS)
            if outcome.failure is not None:
                reason = outcome.detail or f"not built within {_START_SECONDS:g} seconds"
                raise GradingError(f"grader {factory}: {reason}")

    def is_disturbed(self) -> bool:
        """Whether it has ended, or has said something without being asked."""
        if self.ended or self._received:
            return True
        self._poll.register(self._socket, select.POLLIN)
        return bool(self._poll.poll(0))

    def send(self, requests: Sequence[bytes]) -> None:
        """Makes these the next items. What does not fit into the socket travels while answers are awaited."""
        self._unsent = memoryview(b"".join(requests))
        self._flush()

    def outcome(self, seconds: float) -> Outcome:
        """What becomes of the next item. Ends the child if it does not survive that."""
        try:
            return self._answer(seconds)
        except (OSError, ValueError) as error:
            code = self.end()
            if isinstance(error, TimeoutError) and code == -signal.SIGKILL:
                return Outcome(None, "timeout")
            if code == protocol.OUT_OF_MEMORY:
                return Outcome(None, "memory")
            reason = f"exit code {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"
            return Outcome(None, "crash", f"not an answer: {error}" if isinstance(error, ValueError) else reason)

    def kill(self) -> None:
        """Kills it and all it started, from any thread."""
        with self._reaping:  # once it is reaped, its number may be another's
            if not self.ended:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> int:
        """Kills it and puts it away; returns the exit code."""
        self.kill()
        with self._reaping:
            code = self._process.wait()
            self.ended = True
        self._socket.close()
        return code

    def _answer(self, seconds: float) -> Outcome:
        deadline = time.monotonic() + seconds
        is_last_look = False
        while (outcome := protocol.take_answer(self._received, self.num_answers)) is None:
            left = deadline - time.monotonic()
            if is_last_look:
                raise TimeoutError
            is_last_look = left <= 0  # an answer that is there counts, however late this thread comes to see it
            self._transfer(max(left, 0.0))
        self.num_answers += 1
        return outcome

    def _transfer(self, seconds: float) -> None:
        """Waits until bytes can go or come, at most a minute, and moves them."""
        self._poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        for _, event in self._poll.poll(1000 * min(seconds, 60.0)):
            if event & select.POLLOUT:
                self._flush()
            if event & ~select.POLLOUT:
                data = self._socket.recv(2**16)
                if not data:
                    raise ConnectionError
                self._received += data

    def _flush(self) -> None:
        with suppress(OSError):  # if it has ended, its last answers may still be there
            self._unsent = self._unsent[self._socket.send(self._unsent) :]


@contextmanager
def _blocking(signals: Iterable[int]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
