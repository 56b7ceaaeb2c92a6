"""The jobs that were submitted for a sweep: their record on disk, and their states."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from dapo_lightning.slurm.job import ask
from dapo_lightning.utils.json_objects import json_object

FOLDER = "slurm"
"""The folder, inside that of a sweep, that contains the output of its jobs and their record."""

ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


@dataclass(frozen=True)
class SubmittedJob:
    """One job of a sweep.

    Args:
        run: the folder of its run, relative to that of the sweep.
        job: SLURM's id, `<array>_<number>` for a job of an array.
        num_steps: DAPO steps of the run.
        output: the file with the output of its first task.
    """

    run: str
    job: str
    num_steps: int
    output: str


def add_jobs(sweep: Path, jobs: Iterable[SubmittedJob]) -> None:
    """Appends jobs to the record of a sweep."""
    with _record(sweep).open("a", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(asdict(job))}\n" for job in jobs)


def read_jobs(sweep: Path) -> dict[str, SubmittedJob]:
    """Returns the last job that was submitted for each run of a sweep, by the folder of the run. Damaged lines of the
    record are left out: if their jobs are submitted again, the locks of the runs keep them from running twice."""
    if not _record(sweep).is_file():
        return {}
    rows = map(json_object, _record(sweep).read_text(encoding="utf-8", errors="replace").splitlines())
    names = {field.name for field in fields(SubmittedJob)}
    return {row["run"]: SubmittedJob(**row) for row in rows if row.keys() == names}


def active_jobs() -> dict[str, str]:
    """Returns the states of all jobs of this user that have not ended.

    Raises:
        RuntimeError: if SLURM does not answer.
    """
    answer = ask(*states_command())
    if answer.returncode != 0:
        raise RuntimeError(f"squeue does not answer: {(answer.stderr or answer.stdout).strip()}")
    return {job: state for job, state in parse_states(answer.stdout).items() if state not in ENDED}


def states_command() -> list[str]:
    """Returns the command that asks for the states of all jobs of this user. It works without SLURM's accounting."""
    return ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--user={os.getuid()}"]


def parse_states(text: str) -> dict[str, str]:
    """Returns the state of each job in the answer to `states_command`."""
    return dict(line.strip().split("|") for line in text.splitlines())


def _record(sweep: Path) -> Path:
    return sweep / FOLDER / "jobs.jsonl"
