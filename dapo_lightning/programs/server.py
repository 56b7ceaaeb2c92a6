"""The fork server: a warm interpreter, which forks a tester for every program. It never receives any tests itself."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from dapo_lightning.programs import confine, tester, values

_WARM = ("array bisect cmath collections copy dataclasses datetime decimal enum fractions functools hashlib heapq "
         "itertools json math operator queue random re statistics string struct threading time types typing "
         "unicodedata").split()  # fmt: skip


class Server:
    """Runs programs, one after another.

    Create it before this process learns anything that programs must not see, because its memory is copied.

    Args:
        isolated: whether bubblewrap has isolated this process, and each program is to get namespaces of its own.
        megabytes: memory of a program, and of its tests.

    Raises:
        ValueError: if this system cannot confine programs.
    """

    def __init__(self, isolated: bool, megabytes: int) -> None:
        if sys.platform != "linux" or not confine.supported():
            raise ValueError("reward=code needs Linux on x86_64 or aarch64, whose system calls it can filter.")
        self._socket, theirs = socket.socketpair()
        if os.fork() == 0:
            try:
                self._socket.close()
                _serve(theirs, isolated, megabytes)
            finally:
                os._exit(1)
        theirs.close()
        reply = values.receive(self._socket, values.LARGE)
        if reply:
            raise ValueError(
                f"reward.sandbox: programs cannot get namespaces of their own in bubblewrap ({reply}). Permit nested "
                "user namespaces (on Ubuntu, sysctl kernel.apparmor_restrict_unprivileged_userns=0), or choose "
                "reward.sandbox=none, which runs programs without isolation."
            )

    def run(self, job: Any, tests: Any = None) -> dict[str, Any]:
        """Runs a program and returns the verdict; see `tester.run`.

        Raises:
            values.Ended: if the server has been killed.
        """
        values.send(self._socket, job, values.LARGE)
        if tests is not None:
            values.send(self._socket, tests, values.LARGE)
        return values.receive(self._socket, values.LARGE)


def _serve(connection: socket.socket, isolated: bool, megabytes: int) -> None:
    os.closerange(3, connection.fileno())
    os.closerange(connection.fileno() + 1, 2**16)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    pages = confine.pages()
    try:
        below_tmp = confine.enter_namespaces() if isolated else None
    except OSError as error:
        return values.send(connection, str(error))
    confine.hide()
    for name in _WARM:
        import_module(name)
    sys.set_int_max_str_digits(values.MAX_DIGITS)
    gc.collect()
    gc.disable()
    gc.freeze()
    values.send(connection, "")
    code = 0
    while code == 0:
        pid = os.fork()
        if pid == 0:
            _test(connection, below_tmp, pages, megabytes)
        code = os.waitpid(pid, 0)[1]
    return None


def _test(connection: socket.socket, below_tmp: Sequence[Path] | None, pages: int, megabytes: int) -> None:
    """Runs one program in this process, and ends it. Without isolation, `below_tmp` is None."""
    try:
        if below_tmp is not None:
            confine.enter_namespaces_of_a_program(below_tmp)
        job = values.receive(connection, values.LARGE)
        confine.limit_memory(pages, megabytes)
        verdict = tester.run(job, lambda: values.receive(connection, values.LARGE))
        with suppress(values.Ended):
            values.send(connection, verdict, values.LARGE)
        os._exit(0)
    finally:
        os._exit(1)
