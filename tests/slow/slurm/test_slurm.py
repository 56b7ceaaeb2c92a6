"""Sweeps and jobs on a real SLURM, started for these tests: `make test-slurm`."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from cluster import Cluster, is_installed
from compare import assert_the_same
from runs import ROOT, SMALL, assert_same_weights, command, finish, wait_for

from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.utils.checkpoints import latest, steps_done

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not is_installed(), reason="needs root, munge, slurmctld, slurmd and slurm-client"),
]

# A minute of waiting for rewards, hardly any of computing.
LONG = [o for o in SMALL if o.split("=")[0] not in ("num_steps", "evaluation.every", "reward.path")]
LONG += ["num_steps=150", "evaluation.every=50", "reward.path=rewards.slow_even_length", "reward.allow=[everything]"]
SLURM = ["hydra/launcher=slurm", "hydra.launcher.timeout_min=10"]
ONE = "hydra.sweep.subdir=run"
SECONDS = 900  # a limit for a very busy machine


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(slurm):
    """No test leaves a job behind, even if it fails."""
    yield slurm
    slurm("scancel", "--user=root")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The long run, never interrupted, started before the tests that need it."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    process = command(folder, *LONG)

    def ended():
        if process.returncode is None:
            finish(process)
        return folder

    return ended


def sweep(folder, *overrides):
    return command(folder, "-m", *SLURM, f"hydra.sweep.dir={folder}", *overrides)


def steps(folder):
    return [row["step"] for row in read_metrics(folder / "metrics.csv")] if (folder / "metrics.csv").exists() else []


def logs(folder):
    return "".join(path.read_text() for path in sorted((folder / "slurm").glob("*log*")))


def test_jobs_that_time_out_or_make_room_go_on_where_they_were(cluster, straight, tmp_path, monkeypatch):
    """The first are two of an array: what one asks of SLURM must not happen to the other. All are slow until they
    were requeued, so that none has ended before."""
    holds = [tmp_path / name for name in ("hold_low", "hold_timed")]
    for hold in holds:
        hold.touch()
    limit = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=10"]
    array = ["seed=0,1", "hydra.sweep.subdir=${seed}"]
    two = ["trainer=slurm", "trainer.accelerator=cpu", "hydra.launcher.tasks_per_node=2"]
    timed, preempted, ranks = tmp_path / "timed", tmp_path / "preempted", tmp_path / "ranks"
    monkeypatch.setenv("HOLD", str(holds[1]))
    out_of_time = sweep(timed, *LONG, *array, *limit, "hydra.launcher.partition=high")  # which nothing else preempts
    monkeypatch.setenv("HOLD", str(holds[0]))
    low = [sweep(preempted, *LONG, ONE), sweep(ranks, *LONG, ONE, *two)]
    for folder, process in zip((preempted, ranks), low, strict=True):
        wait_for(lambda folder=folder: len(steps(folder / "run")) > 10, process, SECONDS)
    room = ["srun", "--partition=high", f"--cpus-per-task={cluster.cpus - 2}", "true"]
    subprocess.run(room, check=True, timeout=SECONDS)
    holds[0].unlink()
    wait_for(lambda: logs(timed).count("requeued: the run will continue from") >= 2, out_of_time, SECONDS)
    holds[1].unlink()
    for process in (*low, out_of_time):
        output, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, output
    for folder, run in ((timed, "0"), (timed, "1"), (preempted, "run"), (ranks, "run")):
        assert "requeued: the run will continue from" in logs(folder)
        assert steps(folder / run) == list(range(151))
    assert_same_weights(straight(), timed / "0")
    assert_same_weights(straight(), preempted / "run")
    assert_the_same(straight(), ranks / "run")


def test_a_step_that_takes_longer_than_there_is_time_is_done_again(cluster, tmp_path, monkeypatch):
    """A step of 90 seconds after one of 32 in a job of two minutes."""
    run = [o for o in LONG if o.split("=")[0] not in ("num_steps", "reward.path", "evaluation.num_prompts")]
    run += ["num_steps=2", "evaluation.num_prompts=1", "sampling=static", "reward.num_workers=1"]
    limit = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=10"]
    slow = ["reward.path=rewards.once_too_slow_even_length", "reward.allow=[everything]", "reward.seconds=30"]
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    process = sweep(tmp_path / "slow", *run, ONE, *limit, *slow)
    finish(command(tmp_path / "fast", *run, "reward.path=rewards.even_length"))
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert "the DAPO step or evaluation cannot finish before the time limit" in logs(tmp_path / "slow")
    assert steps(tmp_path / "slow/run") == [0, 1, 2]
    assert_same_weights(tmp_path / "fast", tmp_path / "slow/run")


def test_a_sweep_reports_what_fails_and_finishes_the_rest(cluster, tmp_path):
    folder = tmp_path / "sweep"
    named = "hydra.sweep.subdir=${clip.upper}"
    process = sweep(folder, *SMALL, named, "clip.upper=0.28,1.2,1.28,1.5")
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "failed: clip.upper=0.28: clip.upper=0.28 bounds the ratio" in output
    assert sorted(path.parent.name for path in folder.glob("*/summary.json")) == ["1.2", "1.28", "1.5"]
    assert list(cluster.states().values()).count("FAILED") == 0  # these errors are the run's, not SLURM's
    study = subprocess.run([sys.executable, "-m", "dapo_lightning.study", folder], capture_output=True, text=True)
    assert study.returncode == 0 and (folder / "figures/sweep_clip.upper.png").is_file(), study.stderr
    assert all(f"clip.upper={value}" in (folder / "study.md").read_text() for value in (1.2, 1.28, 1.5))


def test_a_setup_command_that_fails_ends_the_job(cluster, tmp_path):
    setup = "hydra.launcher.setup=['export MODULES=1','if true; then','true && module load cuda/99','fi']"
    output, _ = sweep(tmp_path / "sweep", *SMALL, ONE, setup).communicate(timeout=SECONDS)
    assert "hydra.launcher.setup failed, so the run was not started: module load cuda/99" in output
    assert "FAILED" in cluster.states().values() and not (tmp_path / "sweep/run").exists()


def ask(folder):
    answer = subprocess.run([sys.executable, "-m", "dapo_lightning.slurm", folder], capture_output=True, text=True,
                            cwd=ROOT, timeout=SECONDS)  # fmt: skip
    return answer.returncode, answer.stdout


def test_a_sweep_without_waiting_can_be_asked_about(cluster, tmp_path):
    """The command that starts Python enters a container first, and the job may run in either of two partitions."""
    container = tmp_path / "container"
    container.write_text(f'#!/bin/sh\necho "inside $1" >> {tmp_path}/entered\nshift\nexec "$@"\n')
    container.chmod(0o755)
    folder = tmp_path / "sweep"
    run = [override for override in LONG if not override.startswith("num_steps")]
    words = f"hydra.launcher.python='{container} image.sif {sys.executable}'"
    run += [words, "hydra.launcher.partition=low,high", "hydra.launcher.srun_args=[--label]"]
    run += ["num_steps=2,1000", "hydra.sweep.subdir=${num_steps}", "hydra.launcher.wait=false"]
    before = len(cluster.states())
    assert "2 new jobs, 0 submitted before, 0 finished" in finish(sweep(folder, *run))
    assert len(ask(folder)[1].splitlines()) == 5
    wait_for(lambda: (folder / "2/summary.json").exists() and len(steps(folder / "1000")) > 2, seconds=SECONDS)
    wait_for(lambda: "2 runs: 1 finished, 1 running" in ask(folder)[1], seconds=SECONDS)
    assert "0 new jobs, 1 submitted before, 1 finished already" in finish(sweep(folder, *run))
    assert len(cluster.states()) == before + 2
    job = next(name for name, state in cluster.states().items() if state == "RUNNING")
    cluster("scancel", job)
    wait_for(lambda: ask(folder)[0] == 1, seconds=SECONDS)
    assert "ended without a result" in ask(folder)[1]
    assert (tmp_path / "entered").read_text() == "inside image.sif\n" * 2
    (script,) = folder.glob("slurm/*_submission.sh")
    assert "--partition=low,high" in script.read_text() and "wckey" not in script.read_text()


def test_interrupting_the_command_leaves_the_jobs(cluster, tmp_path):
    folder = tmp_path / "sweep"
    process = sweep(folder, *LONG, ONE)
    wait_for((folder / "slurm/jobs.jsonl").exists, process, SECONDS)
    time.sleep(3)  # until it waits
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130 and "the jobs continue; `scancel" in output and "Traceback" not in output, output
    job = json.loads((folder / "slurm/jobs.jsonl").read_text())["job"]
    assert cluster.states()[job] in ("PENDING", "RUNNING")
    cluster("scancel", job)


def test_tasks_share_a_sharded_policy(cluster, tmp_path):
    two = ["trainer=slurm_fsdp2", "trainer.accelerator=cpu", "hydra.launcher.tasks_per_node=2"]
    process = sweep(tmp_path / "two", *SMALL, ONE, *two)
    finish(command(tmp_path / "one", *SMALL))
    finish(process)
    assert_the_same(tmp_path / "one", tmp_path / "two/run")


def test_a_job_that_is_killed_is_reported_and_nobody_waits_for_it(cluster, tmp_path):
    folder = tmp_path / "sweep"
    run = [*LONG, "hydra.sweep.subdir=${clip.upper}", "clip.upper=1.2,1.28", "num_steps=20"]
    process = sweep(folder, *run)
    wait_for(lambda: len(steps(folder / "1.2")) > 1, process)
    job = next(name for name, state in cluster.states().items() if name.endswith("_0") and state == "RUNNING")
    cluster("scancel", "--signal=KILL", job)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1 and f"job {job} failed: clip.upper=1.2: " in output
    assert not (folder / "1.2/summary.json").exists() and (folder / "1.28/summary.json").exists()
    finish(sweep(folder, *run))
    assert steps(folder / "1.2") == list(range(21))


def test_a_job_that_is_cancelled_stays_so(cluster, tmp_path):
    """Also if it is an array, whose last task has the id of the whole."""
    folder, seeds = tmp_path / "sweep", ("0", "1")
    process = sweep(folder, *LONG, "seed=0,1", "hydra.sweep.subdir=${seed}")
    wait_for(lambda: all(len(steps(folder / seed)) > 5 for seed in seeds), process)
    jobs = [name for name, state in cluster.states().items() if state == "RUNNING"]
    cluster("scancel", jobs[0].partition("_")[0])
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1 and len(jobs) == 2 and "requeued" not in logs(folder)
    for job, seed in zip(jobs, seeds, strict=True):
        assert f"job {job} failed" in output and cluster.states()[job] == "CANCELLED"
        assert steps_done(latest(folder / seed / "checkpoints")) == steps(folder / seed)[-1]  # the step it was in


def test_a_task_that_fails_ends_the_others_and_says_why(cluster, tmp_path):
    two = ["trainer=slurm", "trainer.accelerator=cpu", "hydra.launcher.tasks_per_node=2"]
    process = sweep(
        tmp_path / "sweep", *SMALL, ONE, *two, "reward.path=rewards.fails_beside_others", "reward.allow=[SLURM_PROCID]"
    )
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1 and "the second task is out of luck" in output
    assert "FAILED" in cluster.states().values()


def test_tasks_and_devices_that_disagree_are_refused(cluster, tmp_path):
    process = sweep(tmp_path / "sweep", *SMALL, "hydra.launcher.tasks_per_node=2")
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1 and "error: SLURM starts 2 tasks on each of 1 node, but trainer.devices=1" in output
    assert "Traceback" not in output and not list((tmp_path / "sweep").glob("*/*"))
    answer = subprocess.run(
        ["srun", "--ntasks-per-node=2", "--nodes=1", sys.executable, ROOT / "train.py", *SMALL],
        capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests/helpers")},
    )  # fmt: skip
    assert answer.returncode != 0 and "SLURM starts 2 tasks" in answer.stderr


def test_a_script_of_ones_own_goes_on_too(cluster, straight, tmp_path):
    """Without a launcher: `srun python train.py` in a batch script, requeued by hand."""
    script = tmp_path / "job.sh"
    script.write_text(
        f"#!/bin/bash\n#SBATCH --open-mode=append --output=log --requeue --time=10\n"
        f"PYTHONPATH={ROOT / 'tests/helpers'} OMP_NUM_THREADS=1 "
        f"srun {sys.executable} {ROOT / 'train.py'} {' '.join(LONG)}\n"
    )
    job = subprocess.check_output(["sbatch", "--parsable", script], cwd=tmp_path, text=True).strip()
    folder = tmp_path / "outputs/dapo" / f"slurm_{job}"
    wait_for(lambda: len(steps(folder)) > 10)
    cluster("scontrol", "requeue", job)
    wait_for(lambda: (folder / "summary.json").exists())
    assert steps(folder) == list(range(151))
    assert json.loads((folder / "summary.json").read_text())["dapo_steps"] == 150
    assert_same_weights(straight(), folder)


def test_no_slurm_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    process = sweep(tmp_path / "sweep", *SMALL)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1 and "srun" in output.splitlines()[-1]
