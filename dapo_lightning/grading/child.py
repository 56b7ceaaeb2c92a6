"""The grading child: it builds the grader, grades the items that arrive on a socket, and sends an answer for each.

It runs as `python -m dapo_lightning.grading.child SOCKET PARENT`. SOCKET is a file descriptor. PARENT is a process id,
or 0 if the sandbox ends the child together with the parent.

Requests are pickles, each preceded by its length: first (factory, options, megabytes), then lists of pickled items.
Answers are lines of JSON, `[index, value, failure, detail]`, because the parent must not unpickle data from a process
that has handled hostile text. The first answer, `READY`, says that the grader has been built. Every answer is sent at
once, so the first item without an answer is the one that is being graded.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pickle
import re
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from dapo_lightning.grading import load
from dapo_lightning.utils.limits import limit_growth

READY = -1
OUT_OF_MEMORY = 77  # exit code
RUN_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # SLURM sends them to every process; the parent reacts to them
_MAX_ANSWER_BYTES = 1_000_000
_MAX_DETAIL = 500  # characters
_LENGTH_BYTES = 8
_PR_SET_PDEATHSIG = 1
_SHORT_OF_MEMORY = re.compile("(?i)allocate memory|out of memory|start new thread|failed to map segment")

Grader = Callable[[Any], Any]


@dataclass(frozen=True)
class Outcome:
    """The result of grading one item.

    Args:
        value: what the grader returned, after a round trip through JSON (a tuple is a list); None on failure.
        failure: None, "timeout", "memory", "crash" or "error".
        detail: "ValueError: ..." for an error; the signal or exit code for a crash.
    """

    value: Any
    failure: str | None
    detail: str = ""


def frame(request: Any) -> bytes:
    """Returns the bytes of a request, as they are sent."""
    body = pickle.dumps(request)
    return len(body).to_bytes(_LENGTH_BYTES) + body


def take_answer(received: bytearray, index: int) -> Outcome | None:
    """Removes answer number `index` from the beginning of `received` and returns it, or None if it is incomplete.

    Raises:
        ValueError: if the bytes are not that answer.
    """
    end = received.find(b"\n", 0, _MAX_ANSWER_BYTES + 1)
    if end < 0:
        if len(received) > _MAX_ANSWER_BYTES:
            raise ValueError("it is too long")
        return None
    try:
        number, value, failure, detail = _decoded(received[:end])
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{bytes(received[: min(end, 20)])!r}") from error
    if number != index or failure not in (None, "error") or not isinstance(detail, str):
        raise ValueError("it is not the expected answer")
    del received[: end + 1]
    return Outcome(value, failure, detail)


def _decoded(answer: bytearray) -> Any:
    """Returns an answer, in which halves of surrogate pairs are replaced by question marks, because no file could hold
    them. They come from texts that are not UTF-8, such as the output of a program."""
    found = json.loads(answer)
    if b"\\ud" in answer:
        found = json.loads(json.dumps(found, ensure_ascii=False).encode(errors="replace"))
    return found


def main(descriptor: int, parent: int) -> None:
    """Answers requests until there are no more."""
    _ignore_signals_of_the_run()
    _die_with(parent)
    os.set_inheritable(descriptor, False)  # processes that a grader starts must not inherit it
    requests = open(descriptor, "rb")  # noqa: SIM115 (lives as long as the process)
    try:
        factory, options, megabytes = _receive(requests)
        grader = _build(factory, options)
        _limit_memory(megabytes)
    except BaseException as error:
        detail = str(error) if isinstance(error, ValueError) else _describe(error)
        return _send(descriptor, json.dumps([READY, None, "error", detail]))
    _send(descriptor, json.dumps([READY, None, None, ""]))
    index = 0
    try:
        while items := _receive(requests):
            for item in items:
                _send(descriptor, _answer(index, grader, item))
                index += 1
    except MemoryError:  # reporting it would take memory, and the grader may not release what it has
        os._exit(OUT_OF_MEMORY)
    os._exit(0)  # the parent has ended or has finished: do not wait for threads that a grader has started


def _answer(index: int, grader: Grader, item: bytes) -> str:
    """Grades an item and returns the answer."""
    try:
        answer = json.dumps([index, grader(pickle.loads(item)), None, ""])
        if len(answer) <= _MAX_ANSWER_BYTES:
            return answer
        detail = f"ValueError: the value has {len(answer)} bytes as JSON, more than {_MAX_ANSWER_BYTES}"
    except BaseException as error:
        if is_out_of_memory(error):
            raise MemoryError from None
        detail = _describe(error)
    return json.dumps([index, None, "error", detail])


def _send(descriptor: int, answer: str) -> None:
    data = answer.encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


def _receive(requests: BinaryIO) -> Any:
    """Returns the next request; None if there are no more."""
    length = requests.read(_LENGTH_BYTES)
    return pickle.loads(requests.read(int.from_bytes(length))) if length else None


def _build(factory: str, options: Mapping[str, Any]) -> Grader:
    make = load(factory)
    try:
        grader = make(**options)
    except ValueError:  # names the key and the remedy
        raise
    except BaseException as error:
        raise ValueError(f"raised {_describe(error)}") from error
    if not callable(grader):
        raise ValueError(f"returned a {type(grader).__name__}, not a function.")
    return grader


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception was caused by the memory limit. Libraries in C report it in different ways."""
    while error is not None:
        is_enomem = isinstance(error, OSError) and error.errno == errno.ENOMEM
        if isinstance(error, MemoryError) or is_enomem or _SHORT_OF_MEMORY.search(_describe(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _describe(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"[:_MAX_DETAIL]
    except BaseException:  # the message, too, can contain hostile text
        return name


def _ignore_signals_of_the_run() -> None:
    for number in RUN_SIGNALS:
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which programs that a grader starts would inherit
    signal.pthread_sigmask(signal.SIG_UNBLOCK, RUN_SIGNALS)


def _limit_memory(megabytes: int) -> None:
    """Limits the growth of the address space to `megabytes`, on systems that report its size."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would take time and disk space at each crash
    try:
        limit_growth(megabytes)
    except OSError as error:
        raise ValueError(f"reward.megabytes needs /proc, which cannot be read here ({error}): mount it.") from None


def _die_with(parent: int) -> None:
    """Makes the kernel kill this process when the parent ends, even by SIGKILL, and even if this process hangs in C."""
    if parent == 0:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before prctl was called
        os._exit(1)


if __name__ == "__main__":
    try:
        main(*map(int, sys.argv[1:]))
    except ConnectionError:  # the parent has ended, and has said why if that was an error
        os._exit(1)
