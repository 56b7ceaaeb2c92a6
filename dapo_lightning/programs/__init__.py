"""Programs that a policy writes, verified by running them. Nothing here imports torch.

The package is a chain of processes, each of which trusts only those before it:

- the **grader** (`grader`) is a child of the grading pool. It extracts the program, and compares outputs;
- the **fork server** (`server`) is forked from it before any program has arrived, so it has no secrets. For every
  program it forks
- the **tester** (`tester`), which runs the tests, and which forks
- the **candidate** (`candidate`), which runs the program. It has namespaces of its own, may use few system calls
  (`confine`), and exchanges plain data (`values`) with the tester.

So a verdict is never decided in the process in which the program runs.
"""

from __future__ import annotations

KINDS = ("no_code", "syntax", "exception", "wrong", "timeout", "memory", "output", "forbidden")
"""Why a program fails."""
