"""`hydra/launcher=slurm` runs the jobs of a sweep as SLURM job arrays. (Hydra finds launchers in this folder only.)

submitit submits the jobs. Unlike with its own launcher, jobs find this code from any directory; squeue is polled rather
than sacct, which fails on clusters without accounting, so that submitit waits forever; a job that dies is reported
while the others continue; and time limits are handled by `dapo_lightning.slurm.stop`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus

from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.slurm_runs import Run, read_run
from dapo_lightning.run.slurm_wait import wait
from dapo_lightning.slurm.jobs import FOLDER, SubmittedJob, active_jobs, add_jobs, read_jobs
from dapo_lightning.slurm.submit import job_of, squeue_watcher, submit

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

    import dapo_lightning.run.slurm_options  # noqa: F401 (registers the options)
except ImportError:  # without the extra [slurm]: Hydra imports every plugin that it finds
    SlurmLauncher = object

log = logging.getLogger(__name__)

COMPLETED, FAILED = JobStatus.COMPLETED, JobStatus.FAILED


class DapoSlurmLauncher(SlurmLauncher):
    """A launcher with the options of `submitit_slurm` and a few more; see conf/hydra/launcher/slurm.yaml."""

    def __call__(self, *args: Any, **kwargs: Any) -> JobReturn:
        """Runs one job, inside SLURM. Hydra returns errors instead of raising them; with several tasks the error is
        raised after all, so that SLURM ends the other tasks, which would wait for this one."""
        returned = super().__call__(*args, **kwargs)
        if returned.status == FAILED and int(os.environ.get("SLURM_NTASKS", 1)) > 1:
            raise returned._return_value
        return returned

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submits the runs that are neither finished nor already queued or running, waits for all runs, and reports
        failures as they happen. If the jobs are refused, it exits with one sentence."""
        assert self.config is not None
        from submitit.core.utils import FailedJobError
        from submitit.slurm.slurm import SlurmJob

        SlurmJob.watcher = squeue_watcher()  # shared by all jobs; submitit has no argument for it
        sweep = Path(str(self.config.hydra.sweep.dir))
        try:
            self._check_options()
            runs = [self._read(list(one), initial_job_idx + index) for index, one in enumerate(job_overrides)]
            jobs = self._jobs(sweep, runs)
        except (ConfigError, RuntimeError, FailedJobError) as error:  # the last two: srun is missing, sbatch refuses
            sys.exit(f"error: {error}")
        log.info("`python -m dapo_lightning.slurm %s` shows the states of the jobs and their output", sweep)
        done = {run.number: JobReturn(run.overrides, status=COMPLETED, _return_value=run.result) for run in runs}
        if self.params["wait"] and jobs:
            done |= self._wait(jobs, {run.number: run.overrides for run in runs if run.number in jobs})
        return [done[run.number] for run in runs]

    def _jobs(self, sweep: Path, runs: Sequence[Run]) -> dict[int, Any]:
        """Returns submitit's jobs of the runs that are not finished, by number, after submitting those that are not yet
        queued or running."""
        (sweep / FOLDER).mkdir(parents=True, exist_ok=True)
        options = {name: value for name, value in self.params.items() if name not in ("wait", "max_num_timeout")}
        submitted = read_jobs(sweep)
        active = active_jobs() if submitted else {}
        before = {run.number: submitted[run.folder].job for run in runs if run.folder in submitted}
        jobs = {number: job_of(options, job) for number, job in before.items() if job in active}
        new = [run for run in runs if run.number not in jobs and run.result is None]
        finished = len(runs) - len(jobs) - len(new)
        log.info("%s: %d new jobs, %d submitted before, %d finished already", sweep, len(new), len(jobs), finished)
        for array in submit(options, self, [self._call(run) for run in new]) if new else ():
            part, new = list(zip(new, array, strict=False)), new[len(array) :]
            jobs |= {run.number: job for run, job in part}
            add_jobs(sweep, [SubmittedJob(run.folder, job.job_id, run.num_steps, str(job.paths.stdout))
                             for run, job in part])  # fmt: skip
            log.info("SLURM job %s: %d runs", _array(array[0]), len(array))
        return jobs

    def _wait(self, jobs: Mapping[int, Any], overrides: Mapping[int, Sequence[str]]) -> dict[int, JobReturn]:
        try:
            return wait(jobs, overrides)
        except KeyboardInterrupt:
            ids = " ".join(sorted({_array(job) for job in jobs.values()}))
            log.warning("the jobs continue; `scancel %s` stops them, and this command waits for them again", ids)
            sys.exit(130)

    def _check_options(self) -> None:
        assert self.config is not None
        if self.params["max_num_timeout"]:
            raise ConfigError("leave out hydra.launcher.max_num_timeout: jobs are requeued while they make progress.")
        if self.config.hydra.runtime.choices["hydra/sweeper"] != "basic" and not self.params["wait"]:
            raise ConfigError("hydra.launcher.wait=false: a search needs the results of its jobs. Leave it out.")

    def _read(self, overrides: list[str], number: int) -> Run:
        assert self.hydra_context is not None and self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        return read_run(config, overrides, number, self.params)

    def _call(self, run: Run) -> tuple[Any, ...]:
        """Returns the arguments with which SLURM's job calls this launcher."""
        return run.overrides, "hydra.sweep.dir", run.number, f"job_id_for_{run.number}", Singleton.get_state()


def _array(job: Any) -> str:
    return job.job_id.partition("_")[0]
