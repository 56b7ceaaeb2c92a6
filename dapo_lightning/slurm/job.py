"""Facts about the SLURM job that this process belongs to."""

from __future__ import annotations

import os
import subprocess
import time

_INTERACTIVE = ("bash", "interactive")  # Lightning, too, treats jobs with these names as interactive


def in_job() -> bool:
    """Whether SLURM started this process as a task of a batch job."""
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in _INTERACTIVE


def is_restarted() -> bool:
    """Whether this job has been requeued before."""
    return in_job() and int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0


def is_first_task() -> bool:
    """Whether this process is the first task, which acts for the whole job."""
    return os.environ.get("SLURM_PROCID", "0") == "0"


def tasks() -> tuple[int, int]:
    """Returns the number of tasks per node and the number of nodes of this job."""
    nodes = int(os.environ.get("SLURM_NNODES", 1))
    return int(os.environ.get("SLURM_NTASKS_PER_NODE", num_tasks() // nodes)), nodes


def num_tasks() -> int:
    """Returns the number of tasks of this job."""
    return int(os.environ["SLURM_NTASKS"])


def job_id() -> str:
    """Returns an id of this job alone. (The plain id of the last job of an array is also the id of the whole array.)"""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def is_cancelled() -> bool:
    """Whether this job is ending, for example after scancel. (A preempted job is still running.)

    It is also true if SLURM does not answer, because a cancelled job must not be requeued.
    """
    return _squeue("%T") in ("COMPLETING", "")


def seconds_left() -> float | None:
    """Returns the seconds until this job's time limit; None if it has none, or if SLURM does not answer."""
    return parse_seconds(_squeue("%L"))


def parse_seconds(text: str) -> float | None:
    """Parses SLURM's `[days-][[hours:]minutes:]seconds`; returns None for UNLIMITED, INVALID and the like."""
    days, _, clock = text.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
        return 86_400.0 * int(days or 0) + sum(part * 60**power for power, part in enumerate(reversed(parts)))
    except ValueError:
        return None


def requeue() -> str | None:
    """Ends this job and starts it again under the same id once there is room; returns the reason if SLURM refuses."""
    answer = ask("scontrol", "requeue", job_id())
    return None if answer.returncode == 0 else (answer.stderr or answer.stdout).strip()


def _squeue(format: str) -> str:
    return ask("squeue", "--noheader", f"--format={format}", f"--jobs={job_id()}").stdout.strip()


def ask(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command up to three times, because a busy or restarting controller may not answer."""
    for pause in (1.0, 4.0, None):
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            answer = subprocess.CompletedProcess(command, 1, "", str(error))
        if answer.returncode == 0 or pause is None:
            break
        time.sleep(pause)
    return answer
