"""Grades a completion by running the program in it. This process knows the tests; the program's process does not."""

from __future__ import annotations

import os
import time

from dapo_lightning.grading.final_answer import answer_pattern, last_match
from dapo_lightning.programs import values
from dapo_lightning.programs.e2b_client import E2bMachines, template_of
from dapo_lightning.programs.extract import fenced_program
from dapo_lightning.programs.outputs import COMPARISONS
from dapo_lightning.programs.remote import RemoteServer
from dapo_lightning.programs.server import Server
from dapo_lightning.programs.tests import ProgramTests

Verdict = tuple[str | None, str, int, int, str | None]
"""The kind of failure or None, a detail, how many tests have passed, how many there are, and the program."""


def _server(place: str, megabytes: int) -> Server | RemoteServer | E2bMachines:
    if "://" in place:
        return RemoteServer(place, megabytes)
    if (template := template_of(place)) is not None:
        return E2bMachines(template, megabytes)
    return Server(place == "bubblewrap", megabytes)


class ProgramGrader:
    """Grades (tests, completion).

    Args:
        pattern: regular expression with one group; its last match is the program.
        fenced: whether the program is the last fenced block; otherwise it is the whole completion.
        compare: how outputs are compared; one of `COMPARISONS`.
        every: whether all tests are run, even if one has failed.
        seconds: time limit of a completion, all tests together.
        megabytes: memory of a program.
        place: where programs run: "bubblewrap" (which isolates this process), "none", "e2b", "e2b:<template>", or the
            address of a server of SandboxFusion.

    Raises:
        ValueError: if `pattern` is unfit, or if programs cannot be confined here.
    """

    def __init__(
        self, pattern: str | None, fenced: bool, compare: str, every: bool, seconds: float, megabytes: int, place: str
    ) -> None:
        self._server = _server(place, megabytes)  # first, because this process's memory is copied for every program
        self._pattern, self._fenced, self._same = answer_pattern(pattern), fenced, COMPARISONS[compare]
        self._every, self._seconds = every, seconds

    def __call__(self, item: tuple[ProgramTests, str]) -> Verdict:
        """Returns the verdict on a completion."""
        tests, completion = item
        program = self._program(completion)
        if program is None or not program.strip():
            return "no_code", "", 0, 1, None
        source = tests.preamble + "\n" * bool(tests.preamble and not tests.preamble.endswith("\n")) + program
        try:
            verdict = self._run_tests(tests, source) if tests.tests else self._run_script(tests, source)
        except values.Ended:
            os._exit(1)  # the server is gone, and cannot be forked from a process that knows tests
        return *verdict, program

    def _program(self, completion: str) -> str | None:
        if self._pattern is not None:
            return last_match(self._pattern, completion)
        return fenced_program(completion) if self._fenced else completion

    def _run_tests(self, tests: ProgramTests, source: str) -> tuple[str | None, str, int, int]:
        job = {"program": source, "stdin": None, "seconds": self._seconds, "every": self._every}
        secret = {"preamble": tests.preamble, "tests": tests.tests, "entry_point": tests.entry_point}
        verdict = self._server.run(job, secret)
        return verdict["failure"], verdict["detail"], verdict["passed"], verdict["total"]

    def _run_script(self, tests: ProgramTests, source: str) -> tuple[str | None, str, int, int]:
        deadline, passed, first = time.monotonic() + self._seconds, 0, None
        for number, (given, expected) in enumerate(zip(tests.inputs, tests.outputs, strict=True), 1):
            seconds = max(deadline - time.monotonic(), 0.01)
            job = {"program": source, "stdin": given, "seconds": seconds, "every": self._every}
            verdict = self._server.run(job)
            kind, detail = verdict["failure"], verdict["detail"]
            if kind is None and not self._same(verdict["output"], expected):
                kind, detail = "wrong", f"wrote {verdict['output'][:60]!r}"
            passed += kind is None
            first = first or (kind and (kind, f"run {number}: {detail}"))
            if kind == "timeout" or (kind and not self._every):
                break
        return *(first or (None, "")), passed, len(tests.inputs)
