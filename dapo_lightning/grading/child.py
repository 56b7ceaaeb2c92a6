"""The child's side: builds the grader, then grades the items that come down a socket and answers each.

Run as `python -m dapo_lightning.grading.child SOCKET PARENT`: a file descriptor and a process id.

Both directions carry frames: a mark, which tells rubbish at once, a length, and as many bytes. Requests are pickles,
first (factory, options, megabytes) and then the items. Answers are JSON, `[index, value, failure, detail]`, because the
parent must not unpickle what a process that has handled hostile text sends; the first, `READY`, says that the grader is
built. No answer is held back, so the first item without one is the one being graded.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import pickle
import resource
import signal
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

READY = -1
OUT_OF_MEMORY = 77  # exit code
SIGNALS_OF_THE_RUN = (signal.SIGTERM, signal.SIGUSR1)  # SLURM sends them to every process; here, the parent decides
_MAX_VALUE_BYTES = 1_000_000
_MAX_DETAIL = 500
_MAX_ANSWER_BYTES = _MAX_VALUE_BYTES + 20 * _MAX_DETAIL
_HEADER = struct.Struct("!4sI")
_MARK = b"dapo"
_PR_SET_PDEATHSIG = 1

Grader = Callable[[Any], Any]


@dataclass(frozen=True)
class Outcome:
    """What became of one item.

    Args:
        value: what the grader returned, as JSON knows it (a tuple is a list); None on failure.
        failure: None, "timeout", "memory", "crash" or "error".
        detail: "ValueError: ..." for an error; signal or exit code for a crash.
    """

    value: Any
    failure: str | None
    detail: str = ""


def command(descriptor: int) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a child of this process that imports what this process can import."""
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    # One hash seed gives sets the same order in every child, and so equal items equal grades.
    environment = {"PYTHONHASHSEED": "0", **os.environ, "PYTHONPATH": path}
    return [sys.executable, "-P", "-m", __name__, str(descriptor), str(os.getpid())], environment


def frame(body: bytes) -> bytes:
    """`body` with a mark and its length in front."""
    return _HEADER.pack(_MARK, len(body)) + body


def take_answer(received: bytearray, index: int) -> Outcome | None:
    """Takes the answer number `index` off the front of `received`; None if it is not all there yet.

    Raises:
        ValueError: if this is no such answer.
    """
    if len(received) < _HEADER.size:
        return None
    mark, length = _HEADER.unpack_from(received)
    if mark != _MARK or length > _MAX_ANSWER_BYTES:
        raise ValueError(f"{bytes(received[: _HEADER.size])!r}")
    end = _HEADER.size + length
    if len(received) < end:
        return None
    try:
        number, value, failure, detail = json.loads(received[_HEADER.size : end])
    except (TypeError, RecursionError) as error:
        raise ValueError("not four values") from error
    if number != index or failure not in (None, "error") or not isinstance(detail, str):
        raise ValueError("not the answer expected")
    del received[:end]
    return Outcome(value, failure, detail)


def main(descriptor: int, parent: int) -> None:
    """Serves until the requests end."""
    _outlive_the_signals_of_the_run()
    _die_with(parent)
    os.set_inheritable(descriptor, False)  # not for the processes that a grader starts
    requests = open(descriptor, "rb")  # noqa: SIM115
    try:
        factory, options, megabytes = pickle.loads(_receive(requests) or b"")
        grader = _build(factory, options)
        _limit_memory(megabytes)
    except BaseException as error:
        _send(descriptor, READY, "error", str(error) if isinstance(error, _BuildError) else _describe(error))
        return
    _send(descriptor, READY)
    index = 0
    try:
        while _serve(grader, requests, descriptor, index):
            index += 1
    except MemoryError:  # to say more would take more memory, and the grader may hold on to what it has
        os._exit(OUT_OF_MEMORY)
    os._exit(0)  # the parent is gone or done: threads that a grader left behind are not waited for


def _serve(grader: Grader, requests: BinaryIO, descriptor: int, index: int) -> bool:
    """Answers one request; False if there is none left."""
    failure, detail, value = None, "", "null"
    try:
        request = _receive(requests)
        if request is None:
            return False
        value = json.dumps(grader(pickle.loads(request)))
        if len(value) > _MAX_VALUE_BYTES:
            failure, detail = "error", f"the value has {len(value)} bytes as JSON, more than {_MAX_VALUE_BYTES}"
            value = "null"
    except MemoryError:
        raise
    except BaseException as error:
        failure, detail = "error", _describe(error)
    _send(descriptor, index, failure, detail, value)
    return True


def _send(descriptor: int, index: int, failure: str | None = None, detail: str = "", value: str = "null") -> None:
    data = frame(f"[{index}, {value}, {json.dumps(failure)}, {json.dumps(detail)}]".encode())
    while data:
        data = data[os.write(descriptor, data) :]


def _receive(requests: BinaryIO) -> bytes | None:
    header = requests.read(_HEADER.size)
    return requests.read(_HEADER.unpack(header)[1]) if len(header) == _HEADER.size else None


class _BuildError(Exception):
    """The grader cannot be built; the message is for the parent's user."""


def _build(factory: str, options: Mapping[str, Any]) -> Grader:
    module, _, name = factory.rpartition(".")
    try:
        make = getattr(importlib.import_module(module), name)
    except BaseException as error:
        raise _BuildError(
            f"cannot be imported ({_describe(error)}). Give the dotted path of a callable in a module that `python` "
            "finds from this folder, such as my_module.my_grader."
        ) from error
    try:
        grader = make(**options)
    except BaseException as error:
        raise _BuildError(f"raised {_describe(error)}") from error
    if not callable(grader):
        raise _BuildError(f"returned a {type(grader).__name__}, not a function.")
    return grader


def _describe(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"[:_MAX_DETAIL]
    except BaseException:  # hostile text can get into the message, too
        return name


def _outlive_the_signals_of_the_run() -> None:
    for number in SIGNALS_OF_THE_RUN:
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which programs that a grader starts would inherit
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_OF_THE_RUN)


def _limit_memory(megabytes: int) -> None:
    """Lets the address space grow by `megabytes`, on systems that tell how large it is."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would take time, and space for each crash
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _die_with(parent: int) -> None:
    """Has the kernel kill this process when the parent ends, even by SIGKILL, and even if this one hangs in C."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before it was watched
        os._exit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
