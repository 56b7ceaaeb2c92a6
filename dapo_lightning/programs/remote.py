"""A client of SandboxFusion (github.com/bytedance/SandboxFusion), which runs programs on another machine.

The server receives this package as files, and runs `main`, which tests the program as it is tested here, but without
namespaces: the container of the server is the isolation. Expected outputs are not sent.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from dapo_lightning.programs import confine, tester, values

JOB, TESTS = "job.json", "tests.json"
_CODE = "from dapo_lightning.programs.remote import main\nmain()\n"
_START_SECONDS = 10.0  # for what the server needs besides the program


class RemoteServer:
    """Runs programs on a server of SandboxFusion, one after another.

    Args:
        address: http://host:port.
        megabytes: memory of a program, and of its tests.
    """

    def __init__(self, address: str, megabytes: int) -> None:
        self._url, self._megabytes = f"{address.rstrip('/')}/run_code", megabytes
        self._files = {path: _base64(text) for path, text in package().items()}

    def run(self, job: Any, tests: Any = None) -> dict[str, Any]:
        """Runs a program and returns the verdict; see `tester.run`.

        Raises:
            RuntimeError: if the server cannot be reached, or does not return a verdict.
        """
        work = json.dumps({"job": job, "megabytes": self._megabytes})
        request = {
            "code": _CODE,
            "language": "python",
            "files": self._files | {JOB: _base64(work), TESTS: _base64(json.dumps(tests))},
            "run_timeout": job["seconds"] + _START_SECONDS,
        }
        headers = {"Content-Type": "application/json"}
        try:
            asked = urllib.request.Request(self._url, json.dumps(request).encode(), headers)
            with urllib.request.urlopen(asked, timeout=job["seconds"] + 2 * _START_SECONDS) as answer:
                reply = json.loads(answer.read(values.LARGE))
            return verdict(reply["run_result"]["stdout"])
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise RuntimeError(f"reward.sandbox={self._url}: no verdict ({type(error).__name__}: {error})") from None


def package() -> dict[str, str]:
    """Returns the files of this package, which `main` needs, by their relative paths."""
    return {f"dapo_lightning/programs/{path.name}": path.read_text() for path in Path(__file__).parent.glob("*.py")}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def verdict(printed: str) -> dict[str, Any]:
    """Reads what `main` has printed.

    Raises:
        LookupError, TypeError, ValueError: if it is not a verdict.
    """
    found = json.loads(printed)
    common = {"failure": found["failure"], "detail": str(found["detail"])}
    if "output" in found:
        return common | {"output": str(found["output"])}
    return common | {"passed": int(found["passed"]), "total": int(found["total"])}


def main() -> None:
    """Runs on the server, in a folder with `JOB` and `TESTS`, and prints the verdict. Both files are unlinked before
    the program starts. The tests are read only afterwards, because the memory of this process is copied for the
    program."""
    work = json.loads(Path(JOB).read_text())
    tests = Path(TESTS).open()  # noqa: SIM115
    Path(JOB).unlink()
    Path(TESTS).unlink()
    printed = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    confine.hide()
    confine.limit_memory(confine.pages(), work["megabytes"])
    os.write(printed, json.dumps(tester.run(work["job"], lambda: json.load(tests))).encode())
