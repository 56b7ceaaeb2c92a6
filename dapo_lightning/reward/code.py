"""Programs: runs the program that a completion contains against the tests of the row."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lightning.pytorch.utilities import rank_zero_only

from dapo_lightning.grading import sandbox
from dapo_lightning.grading.permissions import Permissions
from dapo_lightning.grading.pool import GradingPool
from dapo_lightning.programs import e2b_client
from dapo_lightning.programs.outputs import COMPARISONS
from dapo_lightning.programs.tests import ProgramTests
from dapo_lightning.reward import PendingGrades
from dapo_lightning.reward.pooled import PooledReward
from dapo_lightning.reward.unreadable import without_unreadable
from dapo_lightning.types import Grade, Prompt

log = logging.getLogger(__name__)

_GRACE_SECONDS = 10.0  # for everything but the program


@dataclass(eq=False)
class Code(PooledReward):
    """A completion is correct iff its program passes all tests of the row (see `ProgramTests`).

    Args:
        pattern: regular expression; the group of its last match is the program. None: the last fenced block.
        fenced: without `pattern`: False takes the whole completion as the program.
        compare: how an output is compared with the expected one: "exact" (lines), "tokens" (words), or "numbers"
            (words; numbers may differ by 1e-6).
        partial: the score grows with the share of tests that pass, from `wrong` to `correct`; otherwise, it is one of
            the two. Correctness always needs all tests.
        sandbox: "bubblewrap"; "none" runs programs without isolation; an address, http://..., is that of a server of
            SandboxFusion; "e2b", or "e2b:<template>", runs them in machines of E2B.
        columns: other names of the columns that hold tests, such as {tests: test_list}.
        unreadable: what rows mean whose tests cannot be used: "error", or "skip" (they are left out).
        seconds: time limit of a completion, all tests together.
        megabytes: memory of a program.
    """

    pattern: str | None = None
    fenced: bool = True
    compare: str = "tokens"
    partial: bool = False
    correct: float = 1.0
    wrong: float = -1.0
    sandbox: str = "bubblewrap"
    columns: Mapping[str, str] = field(default_factory=dict)
    unreadable: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        if self.correct <= self.wrong:
            raise ValueError(f"reward.correct={self.correct} must exceed reward.wrong={self.wrong}.")
        if self.compare not in COMPARISONS:
            raise ValueError(f"reward.compare={self.compare}: choose one of {', '.join(COMPARISONS)}.")
        if self.allow:
            raise ValueError("reward.allow does not apply to reward=code: programs cannot be given access to anything.")
        unknown = set(self.columns) - set(ProgramTests.__dataclass_fields__)
        if unknown:
            raise ValueError(
                f"reward.columns: {', '.join(sorted(unknown))} is not known; name columns for some of "
                f"{', '.join(ProgramTests.__dataclass_fields__)}."
            )
        is_e2b = e2b_client.template_of(self.sandbox) is not None
        is_remote = is_e2b or self.sandbox.startswith(("http://", "https://"))
        if self.sandbox not in ("bubblewrap", "none") and not is_remote:
            raise ValueError(
                f"reward.sandbox={self.sandbox}: choose bubblewrap, none, e2b, or the address of a server of "
                "SandboxFusion, such as http://localhost:8080."
            )
        variables, isolation = e2b_client.VARIABLES if is_e2b else (), self.sandbox != "none"
        permissions = Permissions(network=is_remote, variables=variables, own_code=False, isolation=isolation)
        options = {
            "pattern": self.pattern,
            "fenced": self.fenced,
            "compare": self.compare,
            "every": self.partial,
            "seconds": self.seconds,
            "megabytes": self.megabytes,
            "place": self.sandbox,
        }
        grader, limit = "dapo_lightning.programs.grader.ProgramGrader", self.seconds + _GRACE_SECONDS
        self.pool = GradingPool(grader, options, self.num_workers, limit, self.megabytes, permissions)

    @property
    def answer_form(self) -> str | None:  # type: ignore[override]
        if self.pattern is not None:
            return f"a match of reward.pattern={self.pattern}"
        return "a fenced block (```python)" if self.fenced else None

    def start(self) -> None:
        """Starts the children; refuses to run programs without isolation, unless this is chosen by name."""
        if e2b_client.template_of(self.sandbox) is not None and (missing := e2b_client.why_not()) is not None:
            raise ValueError(f"reward.sandbox={self.sandbox}: {missing}.")
        reason = sandbox.why_not()
        if self.sandbox == "bubblewrap" and reason is not None:
            raise ValueError(
                f"reward.sandbox=bubblewrap: {reason}. Install it, and permit user namespaces (in Docker: "
                "--security-opt seccomp=unconfined), or choose reward.sandbox=none, which runs the programs that the "
                "policy writes with access to your files and to the network."
            )
        super().start()

    def _say_what_is_open(self) -> None:
        if self.sandbox == "none":
            _warn("reward.sandbox=none: the programs that the policy writes run with access to your files.")
        else:
            super()._say_what_is_open()

    def usable(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Returns the rows whose tests can be used.

        Raises:
            ValueError: naming the row.
        """
        unread = []
        for prompt in prompts:
            try:
                self._tests(prompt)
                unread.append(False)
            except ValueError:
                if self.unreadable == "error":
                    raise
                unread.append(True)
        return without_unreadable(prompts, unread, self.unreadable, "belong to rows without usable tests")

    def submit(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> PendingGrades:
        """Submits each completion as a separate item."""
        tests = {id(prompt): self._tests(prompt) for prompt in prompts}
        items = [(tests[id(prompt)], text) for prompt, text in zip(prompts, completions, strict=True)]
        return self.grade(items, self._read, self.wrong)

    def _tests(self, prompt: Prompt) -> ProgramTests:
        try:
            return ProgramTests.of(prompt.columns, self.columns)
        except ValueError as error:
            raise ValueError(f"{prompt.source}: {error}. Fix the row, or name its columns in reward.columns.") from None

    def _read(self, verdict: tuple[str | None, str, int, int, str | None]) -> Grade:
        kind, detail, passed, total, program = verdict
        share = passed / total if self.partial else 0.0
        return Grade(
            score=self.correct if kind is None else self.wrong + (self.correct - self.wrong) * share,
            correct=kind is None,
            answer=program,
            vote=None if program is None else hashlib.sha256(program.encode(errors="replace")).hexdigest()[:16],
            kind=kind or "passed",
            detail=detail,
        )


_warn = rank_zero_only(log.warning)
