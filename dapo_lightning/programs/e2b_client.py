"""A client of E2B (e2b.dev), which runs programs in virtual machines in the cloud.

A machine receives this package once, and then the programs one after another, because E2B allows only 1 or 5 new
machines per second, depending on the plan (e2b.dev/docs/sandbox/rate-limits). Programs are tested there as they are
tested here (see `remote.main`), but without namespaces of their own. The package belongs to root, and Python ignores
the user's files, so a program cannot change how later ones are tested.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from contextlib import suppress
from typing import Any

from dapo_lightning.programs.remote import JOB, TESTS, package, verdict

VARIABLES = ("E2B_API_KEY", "E2B_DOMAIN", "E2B_API_URL", "E2B_SANDBOX_URL", "E2B_HTTP_VERSION")
"""Environment variables that the SDK of E2B reads."""

_COMMAND = (
    "python3 -I -c \"import sys; sys.path.insert(0, '{}'); from dapo_lightning.programs.remote import main; main()\""
)
_START_SECONDS = 5.0  # for what a machine needs besides the program
_LIFE_SECONDS = 300  # after this time, E2B deletes the machine


class E2bMachines:
    """Runs programs in machines of E2B, one after another. A machine is replaced before its time is up, and whenever
    it has not returned a verdict.

    Args:
        template: name of E2B's template of the machines; empty: E2B's default.
        megabytes: memory of a program, and of its tests.
    """

    def __init__(self, template: str, megabytes: int) -> None:
        from e2b import Sandbox

        self._create, self._template, self._megabytes = Sandbox.create, template or None, megabytes
        self._machine: Any = None
        self._package, self._until = "", 0.0

    def run(self, job: Any, tests: Any = None) -> dict[str, Any]:
        """Runs a program and returns the verdict; see `tester.run`.

        Raises:
            RuntimeError: if E2B cannot be reached, or the machine does not return a verdict.
        """
        limit, folder = job["seconds"] + _START_SECONDS, f"/tmp/{secrets.token_hex(8)}"
        work = {JOB: json.dumps({"job": job, "megabytes": self._megabytes}), TESTS: json.dumps(tests)}
        try:
            if time.monotonic() + limit > self._until:
                self._replace()
            try:
                self._write(folder, work)
            except Exception:  # an earlier program has filled the disk, for example
                self._replace()
                self._write(folder, work)
            ended = self._machine.commands.run(_COMMAND.format(self._package), cwd=folder, timeout=limit)
            return verdict(ended.stdout)
        except Exception as error:
            self._delete()
            raise RuntimeError(f"reward.sandbox=e2b: no verdict ({type(error).__name__}: {error})") from None

    def _replace(self) -> None:
        self._delete()
        self._until = time.monotonic() + _LIFE_SECONDS
        self._machine = self._create(template=self._template, timeout=_LIFE_SECONDS, allow_internet_access=False)
        self._package = f"/tmp/{secrets.token_hex(8)}"
        self._write(self._package, package(), user="root")

    def _delete(self) -> None:
        with suppress(Exception):  # E2B deletes it later
            if self._machine is not None:
                self._machine.kill()
        self._machine, self._until = None, 0.0

    def _write(self, folder: str, texts: dict[str, str], user: str = "user") -> None:
        files = [{"path": f"{folder}/{name}", "data": text} for name, text in texts.items()]
        self._machine.files.write_files(files, user=user)


def template_of(place: str) -> str | None:
    """The template in "e2b" (empty: E2B's default) or "e2b:<template>"; None if this is another place."""
    name, _, template = place.partition(":")
    return template if name == "e2b" else None


def why_not() -> str | None:
    """Returns why E2B cannot be used; None if it can."""
    try:
        import e2b  # noqa: F401
    except ImportError:
        return 'pip install "dapo-lightning[e2b]"'
    return None if os.environ.get("E2B_API_KEY") else "set the environment variable E2B_API_KEY"
