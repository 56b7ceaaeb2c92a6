"""Waits for the jobs of a sweep on SLURM, and collects their results."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException

POLL_SECONDS = 2.0


def wait(jobs: Mapping[int, Any], overrides: Mapping[int, Sequence[str]]) -> dict[int, JobReturn]:
    """Waits for all jobs and returns their results; the result of a job that failed is its error."""
    from tqdm import tqdm

    results: dict[int, JobReturn] = {}
    common = set.intersection(*(set(one) for one in overrides.values()))
    with tqdm(total=len(jobs), desc="jobs", unit="job") as bar:
        while len(results) < len(jobs):
            for number, job in jobs.items():
                if number not in results and job.done():
                    results[number] = result = result_of(job, overrides[number])
                    if result.status == JobStatus.FAILED:
                        swept = " ".join(override for override in overrides[number] if override not in common)
                        # private in Hydra: the public property would raise the error
                        bar.write(f"job {job.job_id} failed: {swept}: {result._return_value}")
                    bar.update()
            bar.set_postfix(Counter(job.state.lower() for number, job in jobs.items() if number not in results))
            time.sleep(POLL_SECONDS)
    return results


def result_of(job: Any, overrides: Sequence[str]) -> JobReturn:
    """Returns the result of an ended job. With several tasks, this is the result of the first task to fail, which is
    the cause: the other tasks lost their connection to it, or were ended by SLURM."""
    try:
        failed = [task for task in map(job.task, range(job.num_tasks)) if task.exception() is not None]
        if failed:
            raise min(failed, key=_end_time).exception()
        results = job.results()
        return next((result for result in results if result.status == JobStatus.FAILED), results[0])
    except Exception as error:  # also that of a result that cannot be unpickled
        shown = CompactHydraException(str(error))  # which Hydra shows without a traceback
        return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=shown)


def _end_time(task: Any) -> float:
    """Returns the time when a task wrote its error; infinity if it was killed before."""
    result = task.paths.result_pickle
    return result.stat().st_mtime if result.exists() else math.inf
