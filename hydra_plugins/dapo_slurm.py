"""`hydra/launcher=slurm`: the jobs of a sweep as a SLURM job array (Hydra finds launchers in this folder alone).

Submitting is submitit's. What differs from its own launcher: jobs find this code from any directory; who waits asks
squeue, not sacct, which fails on clusters without accounting and would be waited for for ever; a job that dies is
reported and the others are waited for; time limits are met as `dapo_lightning.slurm.stop` says.
"""

from __future__ import annotations

import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from dapo_lightning.run.checks import ConfigError, check_tasks

try:
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
except ImportError:  # without the extra [slurm]: Hydra imports every plugin that it finds
    BaseQueueConf = SlurmLauncher = object

log = logging.getLogger(__name__)

ROOT = Path(__file__).parent.parent
SETUP = (
    f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}",
    '[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK',  # SLURM 22.05 dropped that
    "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}",
)
# A task that fails takes the others with it; one that ends well does not, however long they take.
SRUN_ARGS = ["--kill-on-bad-exit=1", "--wait=0"]
POLL_SECONDS = 2.0


class DapoSlurmLauncher(SlurmLauncher):
    """Takes the options of `submitit_slurm`; see conf/hydra/launcher/slurm.yaml."""

    def __call__(self, *args: Any, **kwargs: Any) -> JobReturn:
        """A run, in its job. Hydra returns what fails; a task that fails beside others must end as failed, so that
        SLURM ends those, too: they would wait for it."""
        returned = super().__call__(*args, **kwargs)
        if returned.status == JobStatus.FAILED and int(os.environ.get("SLURM_NTASKS", 1)) > 1:
            raise returned._return_value
        return returned

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submits all jobs and waits for them; those that fail are named as they do.

        Leaves with a sentence if SLURM refuses, or would start other processes than Lightning expects.
        """
        assert self.config is not None
        from submitit.core.utils import FailedJobError
        from submitit.slurm.slurm import SlurmJob

        try:
            for overrides in job_overrides:
                self._check(overrides)
        except ConfigError as error:
            sys.exit(f"error: {error}")
        sweep = Path(str(self.config.hydra.sweep.dir))
        sweep.mkdir(parents=True, exist_ok=True)
        SlurmJob.watcher = watcher()
        try:
            jobs = self._submit(job_overrides, initial_job_idx)
        except (RuntimeError, FailedJobError) as error:  # no srun here, or sbatch's own words
            sys.exit(f"error: {error}")
        array = jobs[0].job_id.partition("_")[0]
        log.info("SLURM job %s: %d runs into %s; their output is in %s/.submitit", array, len(jobs), sweep, sweep)
        try:
            return wait(jobs, job_overrides)
        except KeyboardInterrupt:
            log.warning("the jobs go on without this process; `scancel %s` stops them", array)
            raise

    def _check(self, overrides: Sequence[str]) -> None:
        assert self.hydra_context is not None and self.config is not None
        if self.params["max_num_timeout"]:
            raise ConfigError("hydra.launcher.max_num_timeout: leave it out, jobs are requeued as long as they get on.")
        trainer = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides)).trainer
        if not OmegaConf.is_interpolation(trainer, "devices"):
            check_tasks(trainer, self.params["tasks_per_node"], self.params["nodes"])

    def _submit(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Any]:
        import submitit

        options = {name: value for name, value in self.params.items() if value is not None}
        folder, setup = options.pop("submitit_folder"), options.pop("setup", [])
        options.pop("max_num_timeout")
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


def watcher() -> Any:
    """Asks squeue for the states of this user's jobs."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    class Squeue(SlurmInfoWatcher):
        ended = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
        seen: set[str] = set()

        def _make_command(self) -> list[str]:
            return ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--user={os.getuid()}"]

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            text = string if isinstance(string, str) else string.decode()
            states = dict(line.strip().split("|") for line in text.splitlines())
            self.seen |= states.keys()
            forgotten = self.seen - states.keys()  # SLURM does so some minutes after their end
            return {job: {"State": states[job]} for job in states} | {job: {"State": "COMPLETED"} for job in forgotten}

        def is_done(self, job_id: str, mode: str = "standard") -> bool:
            return self.get_state(job_id, mode) in self.ended

    return Squeue(delay_s=10)


def wait(jobs: Sequence[Any], job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """What the jobs returned, in order; a job that died returns its error."""
    from tqdm import tqdm

    returns: dict[int, JobReturn] = {}
    common = set(job_overrides[0]).intersection(*job_overrides)
    with tqdm(total=len(jobs), desc="jobs", unit="job") as bar:
        while len(returns) < len(jobs):
            for number, (job, overrides) in enumerate(zip(jobs, job_overrides, strict=True)):
                if number not in returns and job.done():
                    returns[number] = returned = outcome(job, overrides)
                    if returned.status == JobStatus.FAILED:
                        swept = " ".join(override for override in overrides if override not in common)
                        bar.write(f"job {job.job_id} failed: {swept}: {returned._return_value}")
                    bar.update()
            states = [job.watcher.get_state(job.job_id, "cache") for n, job in enumerate(jobs) if n not in returns]
            bar.set_postfix({state.lower(): states.count(state) for state in sorted(set(states))})
            if states:
                time.sleep(POLL_SECONDS)
    return [returns[number] for number in range(len(jobs))]


def outcome(job: Any, overrides: Sequence[str]) -> JobReturn:
    """What a job that is done returned; of many tasks, one that failed if any did."""
    try:
        died = [task for task in job._sub_jobs or [job] if task.exception() is not None]
        if died:
            cause = min(died, key=_ended).exception()
            return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=cause)
        tasks = job.results()
        return next((task for task in tasks if task.status == JobStatus.FAILED), tasks[0])
    except Exception as error:  # a result that cannot be read, of an exception that cannot be unpickled, say
        return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=error)


def _ended(task: Any) -> float:
    """When a task left its error. The first is the cause of the others: they lost a peer, or SLURM ended them."""
    left = task.paths.result_pickle
    return left.stat().st_mtime if left.exists() else math.inf
