"""Limits of the time and memory of code that somebody else has written."""

from __future__ import annotations

import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType


@contextmanager
def limits(seconds: float, megabytes: int) -> Iterator[None]:
    """Interrupts Python code in the context after this processor time, which does not count time spent waiting, and
    when the process has grown by this many MB (on Linux, if /proc can be read).

    Called in another thread than the main one, it does nothing, because only the main thread can be interrupted. The
    memory limit binds all threads of the process while the context lasts.

    Raises:
        TimeoutError: when the time limit is reached.
        MemoryError: when the memory limit is reached.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it has not ended after {seconds:g} s")

    before, memory_before = signal.signal(signal.SIGVTALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    try:
        try:
            with suppress(OSError):
                limit_growth(megabytes)
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, memory_before)  # first, because the other calls may need memory
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
    except MemoryError:
        raise MemoryError(f"it needs more than {megabytes} MB of memory") from None


def limit_growth(megabytes: int) -> None:
    """Limits the growth of the address space of this process to `megabytes`; does nothing on systems other than Linux.

    Raises:
        OSError: if /proc cannot be read.
    """
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bounds = [pages * resource.getpagesize() + megabytes * 2**20, soft, hard]
    resource.setrlimit(resource.RLIMIT_AS, (min(one for one in bounds if one != resource.RLIM_INFINITY), hard))
