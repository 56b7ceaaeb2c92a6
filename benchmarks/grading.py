"""Completions that `reward=math` grades per second, with and without completions that hang.

Usage: python -m benchmarks.grading [number of completions]

In each of three runs, the pool of two children grades completions of a kilobyte. In the second, one in 400 asks for
something that a computer algebra system works on for minutes; in the third, one in 400 really hangs, for the time limit
of 5 seconds.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from dapo_lightning.grading.math_grader import MathGrader
from dapo_lightning.grading.pool import GradingPool

ANSWERS = [
    ("1234", "1234"),
    ("1234", "1235"),
    (r"\frac{1}{2}", "0.5"),
    ("x^2-1", "(x-1)(x+1)"),
    ("[-2,3)", r"-2\le x<3"),
]
EXPENSIVE = ("x+1", "(x+y+z+w)^{500}")
HANGS = "this completion hangs"


class HangingGrader(MathGrader):
    """Grades like `MathGrader`, but never returns for one particular completion."""

    def __call__(self, item: tuple[str, str]) -> Any:
        """Grades, or never returns."""
        if item[1] == HANGS:
            time.sleep(1e9)
        return super().__call__(item)


def main(count: int) -> None:
    """Prints the three rates and how the completions ended."""
    thought = "So the sum of the terms is odd, and we go on. " * 20
    items = [(gold, rf"{thought} $\boxed{{{found}}}$") for gold, found in ANSWERS] * (count // len(ANSWERS))
    expensive = EXPENSIVE[0], rf"\boxed{{{EXPENSIVE[1]}}}"
    for name, hostile in (("none hostile", None), ("1 in 400 expensive", expensive), ("1 in 400 hangs", ("1", HANGS))):
        batch = [hostile if hostile and n % 400 == 200 else item for n, item in enumerate(items)]
        pool = GradingPool("benchmarks.grading.HangingGrader", {}, num_workers=2, seconds=5.0, megabytes=1024)
        pool.start()
        start = time.perf_counter()
        outcomes = pool.submit(batch).result()
        seconds = time.perf_counter() - start
        pool.close()
        failed = sum(outcome.failure is not None for outcome in outcomes)
        print(f"{name:20} {len(batch) / seconds:8.0f} a second   {failed} of {len(batch)} not graded")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
