"""Submits the jobs of a sweep to SLURM with submitit, as job arrays."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dapo_lightning.slurm.job import ask
from dapo_lightning.slurm.jobs import ENDED, parse_states, states_command

ROOT = Path(__file__).parents[2]
SETUP = (
    f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}",
    '[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK',  # srun 22.05 ignores it
    "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}",
)
STOP_IF_SETUP_FAILS = (
    'trap \'echo "error: a command of hydra.launcher.setup failed, so the run was not started: $BASH_COMMAND" >&2; '
    "exit 1' ERR"
)
# A task that fails ends the other tasks of its job. A task that succeeds does not, however long the others take.
SRUN_ARGS = ("--kill-on-bad-exit=1", "--wait=0")
NAMES = {"name": "job_name", "timeout_min": "time", "mem_gb": "mem", "tasks_per_node": "ntasks_per_node"}
"""Names of submitit's SlurmExecutor for options of the launcher."""


def submit(options: Mapping[str, Any], call: Callable[..., Any], arguments: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """Submits a call for each row of arguments. Yields lists of submitit's jobs, one for each array: an array has at
    most as many jobs as the cluster allows.

    Args:
        options: options of the launcher; None means the cluster's default.

    Raises:
        RuntimeError: if SLURM is missing.
        FailedJobError: if sbatch refuses an array (this is an error of submitit).
    """
    executor = _executor(options)
    size = max_array_size() or len(arguments)
    arrays = [arguments[first : first + size] for first in range(0, len(arguments), size)]
    executor.update_parameters(array_parallelism=max(1, options["array_parallelism"] // len(arrays)))
    for array in arrays:
        yield executor.map_array(call, *zip(*array, strict=True))


def max_array_size() -> int | None:
    """Returns the largest number of jobs in an array, or None if SLURM does not answer."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config").stdout, re.MULTILINE)
    return int(found[1]) if found else None


def _executor(options: Mapping[str, Any]) -> Any:
    import submitit

    given = {NAMES.get(name, name): value for name, value in options.items() if value is not None}
    folder, setup = given.pop("submitit_folder"), given.pop("setup", [])
    executor = submitit.SlurmExecutor(folder=folder, python=given.pop("python", None))
    if "mem" in given:
        given["mem"] = f"{given['mem']}GB"
    executor.update_parameters(
        **given
        | {
            "setup": [*SETUP, STOP_IF_SETUP_FAILS, *setup, "trap - ERR"],
            "srun_args": [*SRUN_ARGS, *given["srun_args"]],
            "wckey": None,  # strict clusters refuse submitit's
        }
    )
    return executor


def job_of(options: Mapping[str, Any], job: str) -> Any:
    """Returns submitit's object for a job that was submitted before."""
    import submitit

    tasks = range(options["nodes"] * options["tasks_per_node"])
    return submitit.SlurmJob(folder=options["submitit_folder"], job_id=job, tasks=list(tasks))


def squeue_watcher() -> Any:
    """Returns an object that asks squeue for the states of this user's jobs."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    class SqueueWatcher(SlurmInfoWatcher):
        seen: set[str] = set()

        def _make_command(self) -> list[str]:  # private in submitit, and the only place that names sacct
            return states_command()

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            states = parse_states(string if isinstance(string, str) else string.decode())
            self.seen |= states.keys()
            forgotten = dict.fromkeys(self.seen - states.keys(), "COMPLETED")  # SLURM forgets ended jobs after minutes
            return {job: {"State": state} for job, state in (states | forgotten).items()}

        def is_done(self, job_id: str, mode: str = "standard") -> bool:
            return self.get_state(job_id, mode) in ENDED

    return SqueueWatcher(delay_s=10)
