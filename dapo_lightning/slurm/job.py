"""What a process can ask of SLURM about the job that it is part of."""

from __future__ import annotations

import os
import subprocess
import time

_INTERACTIVE = ("bash", "interactive")  # names of jobs whose one process launches the others itself, as for Lightning


def in_job() -> bool:
    """Whether SLURM started this process as a task of a job."""
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in _INTERACTIVE


def is_restarted() -> bool:
    """Whether this job was requeued before."""
    return in_job() and int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0


def is_first_task() -> bool:
    return os.environ.get("SLURM_PROCID", "0") == "0"


def tasks() -> tuple[int, int]:
    """Tasks per node and nodes of this job."""
    nodes = int(os.environ.get("SLURM_NNODES", 1))
    return int(os.environ.get("SLURM_NTASKS_PER_NODE", int(os.environ["SLURM_NTASKS"]) // nodes)), nodes


def job() -> str:
    """The id of this job alone: the plain id of one task of an array is also that of the whole array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def is_cancelled() -> bool:
    """Whether this job is ending, as by scancel. One that only has to make room for another runs on for a while.
    Also if SLURM does not tell: it must not be revived then."""
    return _squeue("%T") in ("COMPLETING", "")


def seconds_left() -> float | None:
    """Until this job's time limit; None if there is none, or SLURM cannot tell."""
    return seconds(_squeue("%L"))


def seconds(text: str) -> float | None:
    """SLURM's `[days-][[hours:]minutes:]seconds`; None for INVALID, UNLIMITED and the like."""
    days, _, clock = text.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
        return 86_400.0 * int(days or 0) + sum(part * 60**power for power, part in enumerate(reversed(parts)))
    except ValueError:
        return None


def requeue() -> str | None:
    """Has this job end now and start again, with the same id, when there is room.

    Returns:
        None, or why that cannot be.
    """
    answer = _ask("scontrol", "requeue", job())
    return None if answer.returncode == 0 else (answer.stderr or answer.stdout).strip()


def _squeue(format: str) -> str:
    return _ask("squeue", "--noheader", f"--format={format}", f"--jobs={job()}").stdout.strip()


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    """Asks again, as a controller that is busy or restarting answers late."""
    for pause in (1.0, 4.0, None):
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            answer = subprocess.CompletedProcess(command, 1, "", str(error))
        if answer.returncode == 0 or pause is None:
            break
        time.sleep(pause)
    return answer
