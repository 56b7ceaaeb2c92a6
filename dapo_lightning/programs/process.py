"""The tester's side of a running program: a process, a channel, and what the process has written."""

from __future__ import annotations

import os
import select
import signal
import socket
from contextlib import suppress
from typing import Any

from dapo_lightning.programs import candidate, confine, values

_CHANNEL = 3  # file descriptor


class Failed(BaseException):
    """The program has failed. (No `except Exception` of a test catches this.)

    Args:
        kind: one of `KINDS`.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


class Process:
    """A program that runs in a confined process.

    Args:
        stdin: what it can read. None: it defines functions, which are called with `ask`.
        seconds: of processor time.
    """

    def __init__(self, source: str, stdin: str | None, seconds: float) -> None:
        self._output, given = os.memfd_create("output"), os.memfd_create("input")
        with open(given, "wb", closefd=False) as text:
            text.write((stdin or "").encode(errors="surrogatepass"))
        os.lseek(given, 0, os.SEEK_SET)
        self._channel, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                for number, file in enumerate((given, self._output, self._output, theirs.detach())):
                    os.dup2(file, number)
                os.closerange(_CHANNEL + 1, 2**16)
                os.setsid()  # or it could send signals to its group
                os.environ.clear()
                confine.confine(seconds)
                candidate.run(source, socket.socket(fileno=_CHANNEL), is_script=stdin is not None)
            finally:
                os._exit(1)
        theirs.close()
        os.close(given)

    def ask(self, request: Any = None) -> Any:
        """Returns the reply to a request. The first reply comes without a request: the program is loaded.

        Raises:
            Failed: if the program ends instead.
        """
        try:
            if request is not None:
                values.send(self._channel, request)
            return values.receive(self._channel)
        except values.Ended:
            self.kill(grace=0.5)
            raise Failed(*self._why()) from None

    def wait(self) -> str:
        """Waits until the program has ended, and returns what it has written.

        Raises:
            Failed: if it has failed, or has written too much.
        """
        _wait(self._pid, None)
        self.kill()
        if self._status != 0:
            with suppress(values.Ended):
                self._channel.setblocking(False)
                reply = values.receive(self._channel)
                if self._status == 1 and isinstance(reply, dict):
                    raise Failed(str(reply.get("failure")), str(reply.get("detail")))
        kind, detail = self._why()
        if self._status != 0 or kind == "output":
            raise Failed(kind, detail)
        return os.pread(self._output, confine.FILE_BYTES, 0).decode(errors="replace")

    def kill(self, grace: float = 0.0) -> None:
        """Ends the process, after waiting for its end for a while. The kernel ends what is in its namespace."""
        if self._pid:
            self._is_stopped = not _wait(self._pid, grace)
            if self._is_stopped:
                os.kill(self._pid, signal.SIGKILL)
            _, status = os.waitpid(self._pid, 0)
            self._status, self._pid = os.waitstatus_to_exitcode(status), 0

    def _why(self) -> tuple[str, str]:
        """Returns why the process has ended: a kind of failure with a detail."""
        if os.fstat(self._output).st_size >= confine.FILE_BYTES:
            return "output", f"it has written {confine.FILE_BYTES} bytes"
        if self._status == -signal.SIGSYS:
            return "forbidden", "a system call that is not permitted"
        if self._is_stopped:
            return "exception", "it has corrupted the channel to its tests"
        if self._status == -signal.SIGKILL:
            return "memory", "killed by the system"
        if self._status < 0:
            return "exception", f"signal {-self._status} ({signal.strsignal(-self._status)})"
        return "exception", f"ended early with exit code {self._status}"


def _wait(pid: int, seconds: float | None) -> bool:
    """Waits until a child has ended, and returns whether it has."""
    pidfd = os.pidfd_open(pid)
    try:
        return bool(select.select([pidfd], [], [], seconds)[0])
    finally:
        os.close(pidfd)
