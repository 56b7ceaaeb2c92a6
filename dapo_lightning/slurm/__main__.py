"""`python -m dapo_lightning.slurm <sweep folder>` shows the states of a sweep's jobs without submitting anything."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from dapo_lightning.slurm.jobs import SubmittedJob, active_jobs, read_jobs
from dapo_lightning.utils.checkpoints import latest, steps_done
from dapo_lightning.utils.json_objects import read_object
from dapo_lightning.utils.table import table


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 1 if a run ended without a result, 2 if there are no jobs or SLURM does not answer."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if {"-h", "--help"} & {*arguments} else 2
    sweep = Path(arguments[0])
    jobs = read_jobs(sweep)
    if not jobs:
        print(f"error: {sweep} is not the folder of a sweep that was submitted to SLURM", file=sys.stderr)
        return 2
    try:
        active = active_jobs()
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    states = {run: state_of(sweep, job, active) for run, job in jobs.items()}
    rows = [(run, states[run], steps_of(sweep, job), job.job, job.output) for run, job in jobs.items()]
    print(table(("run", "state", "saved steps", "job", "output"), rows, style="plain"))
    counts = ", ".join(f"{number} {state}" for state, number in Counter(states.values()).items())
    print(f"\n{len(jobs)} runs: {counts}")
    return 1 if "ended without a result" in states.values() else 0


def state_of(sweep: Path, job: SubmittedJob, active: Mapping[str, str]) -> str:
    """Returns SLURM's state of an active job, or else whether its run is finished."""
    if job.job in active:
        return active[job.job].lower()
    summary = read_object(sweep / job.run / "summary.json")
    return "finished" if summary and "interrupted" not in summary else "ended without a result"


def steps_of(sweep: Path, job: SubmittedJob) -> str:
    """Returns the number of DAPO steps in the newest checkpoint and in the whole run, as in `10/40`."""
    checkpoint = latest(sweep / job.run / "checkpoints")
    return f"{steps_done(checkpoint) if checkpoint else 0}/{job.num_steps}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
