"""`hydra/launcher=slurm` runs the jobs of a sweep as a SLURM job array. (Hydra finds launchers in this folder only.)

submitit submits the jobs. Unlike with its own launcher, jobs find this code from any directory; squeue is polled rather
than sacct, which fails on clusters without accounting, so that submitit waits forever; a job that dies is reported
while the others continue; and time limits are handled by `dapo_lightning.slurm.stop`.
"""

from __future__ import annotations

import logging
import math
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from dapo_lightning.run.checks import check_tasks
from dapo_lightning.run.errors import ConfigError

try:
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
except ImportError:  # without the extra [slurm]: Hydra imports every plugin that it finds
    BaseQueueConf = SlurmLauncher = object

log = logging.getLogger(__name__)

ROOT = Path(__file__).parent.parent
SETUP = (
    f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}",
    '[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK',  # srun 22.05 ignores it
    "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}",
)
# A task that fails ends the other tasks of its job; a task that succeeds does not, however long they take.
SRUN_ARGS = ["--kill-on-bad-exit=1", "--wait=0"]
ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
POLL_SECONDS = 2.0


class DapoSlurmLauncher(SlurmLauncher):
    """A launcher with the options of `submitit_slurm`; see conf/hydra/launcher/slurm.yaml."""

    def __call__(self, *args: Any, **kwargs: Any) -> JobReturn:
        """Runs one job, inside SLURM. Hydra returns errors instead of raising them; with several tasks the error is
        raised after all, so that SLURM ends the other tasks, which would wait for this one."""
        returned = super().__call__(*args, **kwargs)
        if returned.status == JobStatus.FAILED and int(os.environ.get("SLURM_NTASKS", 1)) > 1:
            raise returned._return_value
        return returned

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submits all jobs, waits for them, and reports failures as they happen; exits with one sentence if they are
        refused."""
        assert self.config is not None
        from submitit.core.utils import FailedJobError
        from submitit.slurm.slurm import SlurmJob

        SlurmJob.watcher = squeue_watcher()  # shared by all jobs; submitit has no argument for it
        sweep = Path(str(self.config.hydra.sweep.dir))
        try:
            for overrides in job_overrides:
                self._check(overrides)
            sweep.mkdir(parents=True, exist_ok=True)
            jobs = self._submit(job_overrides, initial_job_idx)
        except (ConfigError, RuntimeError, FailedJobError) as error:  # the last two: srun is missing, sbatch refuses
            sys.exit(f"error: {error}")
        array = jobs[0].job_id.partition("_")[0]
        log.info("SLURM job %s: %d runs in %s, with their output in %s/.submitit", array, len(jobs), sweep, sweep)
        try:
            return wait(jobs, job_overrides)
        except KeyboardInterrupt:
            log.warning("the jobs continue without this process; `scancel %s` stops them", array)
            raise

    def _check(self, overrides: Sequence[str]) -> None:
        assert self.hydra_context is not None and self.config is not None
        if self.params["max_num_timeout"]:
            raise ConfigError("leave out hydra.launcher.max_num_timeout: jobs are requeued while they make progress.")
        trainer = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides)).trainer
        if not OmegaConf.is_interpolation(trainer, "devices"):
            check_tasks(trainer, self.params["tasks_per_node"], self.params["nodes"])

    def _submit(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Any]:
        import submitit

        options = {name: value for name, value in self.params.items() if value is not None}
        folder, setup, _ = options.pop("submitit_folder"), options.pop("setup", []), options.pop("max_num_timeout")
        common = set(OmegaConf.structured(BaseQueueConf).keys())
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
        executor.update_parameters(
            slurm_setup=[*SETUP, *setup],
            slurm_srun_args=SRUN_ARGS,
            **{name if name in common else f"slurm_{name}": value for name, value in options.items()},
        )
        numbers = range(first, first + len(job_overrides))
        return executor.map_array(
            self,
            [list(overrides) for overrides in job_overrides],
            ["hydra.sweep.dir"] * len(numbers),
            numbers,
            [f"job_id_for_{number}" for number in numbers],
            [Singleton.get_state()] * len(numbers),
        )


def squeue_watcher() -> Any:
    """Returns an object that asks squeue for the states of this user's jobs."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    class SqueueWatcher(SlurmInfoWatcher):
        seen: set[str] = set()

        def _make_command(self) -> list[str]:  # private in submitit, and the only place that names sacct
            return ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--user={os.getuid()}"]

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            text = string if isinstance(string, str) else string.decode()
            states = dict(line.strip().split("|") for line in text.splitlines())
            self.seen |= states.keys()
            forgotten = dict.fromkeys(self.seen - states.keys(), "COMPLETED")  # SLURM forgets ended jobs after minutes
            return {job: {"State": state} for job, state in (states | forgotten).items()}

        def is_done(self, job_id: str, mode: str = "standard") -> bool:
            return self.get_state(job_id, mode) in ENDED

    return SqueueWatcher(delay_s=10)


def wait(jobs: Sequence[Any], job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Waits for all jobs and returns their results in order; a job that died returns its error."""
    from tqdm import tqdm

    results: dict[int, JobReturn] = {}
    common = set(job_overrides[0]).intersection(*job_overrides)
    with tqdm(total=len(jobs), desc="jobs", unit="job") as bar:
        while len(results) < len(jobs):
            for number, (job, overrides) in enumerate(zip(jobs, job_overrides, strict=True)):
                if number not in results and job.done():
                    results[number] = result = result_of(job, overrides)
                    if result.status == JobStatus.FAILED:
                        swept = " ".join(override for override in overrides if override not in common)
                        # private in Hydra: the public property would raise the error
                        bar.write(f"job {job.job_id} failed: {swept}: {result._return_value}")
                    bar.update()
            bar.set_postfix(Counter(job.state.lower() for number, job in enumerate(jobs) if number not in results))
            time.sleep(POLL_SECONDS)
    return [results[number] for number in range(len(jobs))]


def result_of(job: Any, overrides: Sequence[str]) -> JobReturn:
    """Returns the result of an ended job; with several tasks, that of the first to fail, which is the cause: the others
    lost a peer, or SLURM ended them."""
    try:
        failed = [task for task in map(job.task, range(job.num_tasks)) if task.exception() is not None]
        if failed:
            raise min(failed, key=_end_time).exception()
        results = job.results()
        return next((result for result in results if result.status == JobStatus.FAILED), results[0])
    except Exception as error:  # also that of a result that cannot be unpickled
        return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=error)


def _end_time(task: Any) -> float:
    """When a task wrote its error; infinity if it was killed before."""
    result = task.paths.result_pickle
    return result.stat().st_mtime if result.exists() else math.inf
