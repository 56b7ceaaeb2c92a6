"""What a process concludes from SLURM's answers (the real ones: tests/slow/slurm)."""

import signal
import time
from types import SimpleNamespace

import pytest
from runs import config

from dapo_lightning.callbacks.checkpoint import Stopped
from dapo_lightning.run.command import check_launcher
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.trainer import build_trainer
from dapo_lightning.slurm import job as slurm
from dapo_lightning.slurm import stop as stop_module
from dapo_lightning.slurm.stop import Stop


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("0:07", 7), ("9:58", 598), ("2:03:04", 7384), ("1-02:03:04", 93_784), ("UNLIMITED", None), ("", None)],
)
def test_slurm_s_way_to_write_times(time, seconds):
    assert slurm.parse_seconds(time) == seconds


def test_only_tasks_of_a_batch_job_are_in_one(monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    assert not slurm.in_job()
    for name, value in {"NTASKS": "8", "NNODES": "2", "JOB_NAME": "train"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert slurm.in_job() and slurm.tasks() == (4, 2) and not slurm.is_restarted()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert slurm.is_restarted()
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert not slurm.in_job()


def test_slurm_that_does_not_answer_is_no_error_and_revives_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slurm.time, "sleep", lambda _: None)
    assert slurm.seconds_left() is None and slurm.is_cancelled()
    assert "scontrol" in (slurm.requeue() or "")


def test_a_task_of_an_array_does_not_speak_for_the_others(monkeypatch):
    """The last task of an array has the id of the whole array."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert slurm.job_id() == "7"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert slurm.job_id() == "7_2"


class Trainer:
    """What the callback asks of Lightning's."""

    is_global_zero = True
    world_size = 1
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)


def begin_step(stop, monkeypatch, at):
    monkeypatch.setattr("time.monotonic", lambda: at)
    stop.on_train_batch_start(Trainer(), SimpleNamespace(history=SimpleNamespace(dapo_steps=0)), None, 0)


def test_a_step_that_would_not_end_in_time_is_not_begun(monkeypatch, tmp_path):
    """Steps of 100 and 30 s; of the job 114 s are left, 15 of them to spare."""
    stop = Stop(tmp_path)
    for at in (0.0, 100.0):
        begin_step(stop, monkeypatch, at)
    stop._job_ends_at = 244.0
    with pytest.raises(Stopped):
        begin_step(stop, monkeypatch, 130.0)


def test_a_step_that_would_end_in_time_is_begun(monkeypatch, tmp_path):
    stop = Stop(tmp_path)
    for at in (0.0, 100.0):
        begin_step(stop, monkeypatch, at)
    stop._job_ends_at = 246.0
    begin_step(stop, monkeypatch, 130.0)
    assert not stop.received


def test_signals_are_handled_only_while_listening(monkeypatch, tmp_path):
    """Lightning replaces handlers when training and validation begin; an evaluation keeps those that it finds."""
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    stop = Stop(tmp_path)
    stop.on_validation_start(Trainer(), None)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Stopped) as stopped, stop.listening():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stop.on_train_start(Trainer(), None)
        signal.raise_signal(signal.SIGTERM)
        begin_step(stop, monkeypatch, 0.0)
    assert stopped.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before


def test_under_nohup_a_closed_terminal_is_ignored(monkeypatch, tmp_path):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = Stop(tmp_path)
        with stop.listening():
            stop.setup(Trainer(), None, "fit")
            signal.raise_signal(signal.SIGHUP)
            assert not stop.received and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("is_set_up", [False, True])
def test_ranks_that_do_not_find_each_other_end(monkeypatch, tmp_path, is_set_up):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    monkeypatch.setattr(stop_module, "GATHERING_SECONDS", 0.05)
    ended = []
    monkeypatch.setattr(stop_module.os, "_exit", ended.append)
    stop = Stop(tmp_path)
    with stop.listening():
        if is_set_up:
            stop.setup(Trainer(), None, "fit")
        time.sleep(0.5)
    assert ended == ([] if is_set_up else [1])


def test_the_trainer_stops_before_any_other_callback_begins_a_step(tmp_path):
    trainer = build_trainer(config(f"run_folder={tmp_path}"), checkpoint=None)
    assert isinstance(trainer.callbacks[0], Stop) and trainer.callbacks[0].checkpoints == tmp_path / "checkpoints"  # type: ignore[attr-defined]


@pytest.mark.parametrize("launcher", ["slurm", "cores"])
def test_a_launcher_without_a_sweep_is_refused(launcher):
    config(f"hydra/launcher={launcher}", "run_folder=x")
    with pytest.raises(ConfigError, match=rf"hydra/launcher={launcher} has no effect without -m.*Add -m"):
        check_launcher()


SQUEUE = "#!/bin/sh\necho RUNNING\n"
SCONTROL = '#!/bin/sh\necho "$@" >> {}\n'


@pytest.fixture
def in_job(monkeypatch, tmp_path):
    """A running job of a SLURM that takes notes; returns their file."""
    for name, text in {"squeue": SQUEUE, "scontrol": SCONTROL.format(tmp_path / "asked")}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name, value in {"NTASKS": "1", "NNODES": "1", "JOB_ID": "7", "JOB_NAME": "evaluate"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return tmp_path / "asked"


def evaluating(stop, number, for_evaluation):
    with stop.listening(for_evaluation):
        stop.setup(Trainer(), None, "validate")
        signal.raise_signal(number)
        stop.on_validation_batch_start(Trainer(), None, None, 3)


def test_a_preempted_evaluation_is_requeued(in_job, tmp_path, caplog):
    with pytest.raises(Stopped) as stopped:
        evaluating(Stop(tmp_path), signal.SIGTERM, for_evaluation=True)
    assert stopped.value.code == 128 + signal.SIGTERM and in_job.read_text() == "requeue 7\n"
    assert "continue from its beginning" in caplog.text


def test_an_evaluation_uses_its_time_to_the_end(in_job, tmp_path, caplog):
    stop = Stop(tmp_path)
    evaluating(stop, signal.SIGUSR1, for_evaluation=True)
    with stop.listening(for_evaluation=True):
        stop._requeue()  # as just before the time limit
    assert "it saves no progress" in caplog.text and not in_job.exists()


def test_an_evaluation_of_training_is_not_stopped(in_job, tmp_path):
    evaluating(Stop(tmp_path), signal.SIGTERM, for_evaluation=False)
    assert not in_job.exists()
