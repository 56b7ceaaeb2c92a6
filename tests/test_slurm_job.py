"""What a process concludes from SLURM's answers (the real ones: tests/slurm)."""

import pytest

from dapo_lightning import slurm


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("0:07", 7), ("9:58", 598), ("2:03:04", 7384), ("1-02:03:04", 93_784), ("UNLIMITED", None), ("", None)],
)
def test_slurm_s_way_to_write_times(time, seconds):
    assert slurm.seconds(time) == seconds


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


def test_slurm_that_does_not_answer_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.seconds_left() is None and not slurm.is_cancelled()
    assert "scontrol" in (slurm.requeue() or "")
