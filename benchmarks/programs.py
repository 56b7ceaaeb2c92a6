"""Programs that `reward=code` runs per second, and the processor time of each, idle and under attack.

Usage: python -m benchmarks.programs [number of programs]

Two programs run at the same time. Under attack, one in 50 is hostile: in turn, it loops for the time limit of two
seconds, floods the memory, floods the output, forks, or ends its process. The processor time is that of all processes
of the graders, so on a busy machine, it tells more than the rate.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from contextlib import closing
from itertools import cycle
from pathlib import Path

from dapo_lightning.reward.code import Code
from dapo_lightning.types import Prompt

CALLS = Prompt("?", "", "calls", {"tests": "assert f(1) == 2\nassert f(2) == 3"})
SCRIPT = Prompt("?", "", "script", {"inputs": ["1 2"], "outputs": ["3"]})
CASES = {
    CALLS.source: (CALLS, "def f(x):\n    return x + 1"),
    SCRIPT.source: (SCRIPT, "print(sum(map(int, input().split())))"),
}
HOSTILE = (
    "while True: pass",
    "x = []\nwhile True: x.append(bytearray(10**6))",
    "while True: print('x' * 10**5)",
    "import os\nwhile True: os.fork()",
    "import os\nos._exit(0)",
)


def main(count: int) -> None:
    """Prints a line for each form of tests, idle and under attack."""
    for name, (prompt, program) in CASES.items():
        for is_attacked in (False, True):
            attacks = cycle(HOSTILE)
            programs = [next(attacks) if is_attacked and n % 50 == 25 else program for n in range(count)]
            with closing(Code(2, 2.0, 256, fenced=False)) as reward:
                reward([prompt], [program])
                processor, start = _processor_seconds(), time.perf_counter()
                grades = reward([prompt] * count, programs)
                seconds, used = time.perf_counter() - start, _processor_seconds() - processor
            kinds = ", ".join(f"{number} {kind}" for kind, number in Counter(grade.kind for grade in grades).items())
            print(f"{name:7} {'attacked' if is_attacked else 'idle':9} {count / seconds:6.0f} a second "
                  f"{1000 * used / count:6.1f} ms of processor time each   {kinds}", flush=True)  # fmt: skip


def _processor_seconds() -> float:
    """Returns the processor time of this process's living descendants and of those that they have waited for. (Graders
    that were replaced in the meantime are missing.)"""
    ticks, todo = 0, [os.getpid()]
    while todo:
        for tasks in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            for pid in map(int, tasks.read_text().split()):
                todo.append(pid)
                ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
