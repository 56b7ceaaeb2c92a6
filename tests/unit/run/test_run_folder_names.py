"""Names and folders of runs, and what ends a run without a traceback."""

import datetime
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dapo_lightning.run import build, cli, command
from dapo_lightning.run.command import quoted_paths
from dapo_lightning.run.compose import compose_run, create, initialized
from dapo_lightning.run.explain import explanation
from dapo_lightning.run.folder import finished_result
from dapo_lightning.run.refuse import parse
from dapo_lightning.slurm.__main__ import state_of
from dapo_lightning.slurm.jobs import FOLDER, SubmittedJob, add_jobs, read_jobs


class Noon(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 1, 12)


@pytest.mark.parametrize("overrides", [[], ["mode=evaluate", "policy=hub", "policy.name=a"]], ids=["train", "evaluate"])
def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch, overrides):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command.datetime, "datetime", Noon)
    folders = []
    for _ in range(3):
        with initialized():
            folders.append(Path(compose_run(overrides).run_folder))
    assert [folder.name for folder in folders] == ["2026-01-01_12-00-00" + end for end in ("", "_2", "_3")]
    assert all(folder.is_dir() for folder in folders)


def test_sweeps_of_the_same_second(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {cli._checked_command(["-m", "seed=0,1"])[-1] for _ in range(3)}
    assert len(given) == 3 and all(one.startswith("hydra.sweep.dir='outputs/sweeps/") for one in given)
    assert cli._checked_command(["-m", "seed=0,1", "hydra.sweep.dir=x"])[2] == "hydra.sweep.dir=x"


def test_many_processes_that_want_the_same_folder(tmp_path):
    with ProcessPoolExecutor(4) as pool:
        made = list(pool.map(create, [tmp_path / "run"] * 40, [True] * 40))
    assert len(set(made)) == 40


@pytest.mark.parametrize(
    "path", ["a=1,b=2", "a b", "it's", 'a"b', "a\\b", "e${oc.env:HOME}", "\\${x}", "[a]", "{a: b}", "~x", "字"]
)
def test_a_path_is_taken_as_it_is_written(path):
    for key in ("resume", "checkpoint"):
        (override,) = parse(quoted_paths([f"{key}={path}"]))
        assert OmegaConf.create({"x": getattr(override.value(), "text", override.value())}).x == path


def test_quotes_and_other_keys_stay():
    assert quoted_paths(["resume=a=1", "checkpoint=null", "resume='a=1'", "seed=a=1", "-m"]) == [
        "resume='a=1'", "checkpoint=null", "resume='a=1'", "seed=a=1", "-m",
    ]  # fmt: skip


def test_an_interruption_while_loading_is_one_line(tmp_path, monkeypatch, capfd):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "set_up", interrupted)
    monkeypatch.setattr("sys.argv", ["train.py", f"hydra.run.dir={tmp_path}/run"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 128 + signal.SIGINT and capfd.readouterr().err == "interrupted before the first step\n"
    assert not (tmp_path / "run").exists()


def test_an_interruption_at_the_end_of_a_run_is_not_called_one_before_it(tmp_path, monkeypatch, capfd):
    def interrupted(*_):
        (tmp_path / "run/checkpoints").mkdir()
        (tmp_path / "run/checkpoints/step_000001.ckpt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "set_up", interrupted)
    monkeypatch.setattr("sys.argv", ["train.py", f"hydra.run.dir={tmp_path}/run"])
    with pytest.raises(SystemExit):
        cli.main()
    assert capfd.readouterr().err == "interrupted\n"


def test_errors_of_the_machine_are_one_sentence(tmp_path):
    assert "removed" in explanation(FileNotFoundError(2, "No such file"), tmp_path / "gone")
    assert "Free some space" in explanation(RuntimeError("I/O error: No space left on device (os error 28)"), tmp_path)
    assert "another process" in explanation(RuntimeError("[gloo] Connection closed by peer [::1]:1"), tmp_path)
    assert "quota exceeded" in explanation(OSError(122, "Disk quota exceeded"), tmp_path)
    assert "Read-only" in explanation(OSError(30, "Read-only file system", f"{tmp_path}/x"), tmp_path)
    assert f"'{tmp_path}/x'" in explanation(PermissionError(13, "Permission denied", f"{tmp_path}/x"), tmp_path)
    assert explanation(PermissionError(13, "Permission denied", "/elsewhere"), tmp_path) is None
    assert explanation(RuntimeError("a bug"), tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", "\0" * 99, "[" * 100_000, '{"dapo_steps": 4, "after": {"avg@8": null}}']
)
def test_a_run_with_a_damaged_summary_is_not_finished(tmp_path, text):
    config = {"run_folder": str(tmp_path), "mode": "train", "num_steps": 4, "evaluation": {"num_completions": 8}}
    summary, job = tmp_path / "summary.json", SubmittedJob(".", "7", 4, "")
    summary.write_text('{"dapo_steps": 4, "after": {"avg@8": 0.5}}')
    assert finished_result(config) == 0.5 and state_of(tmp_path, job, {}) == "finished"
    summary.write_text(text)
    assert finished_result(config) is None
    assert "null" in text or state_of(tmp_path, job, {}) == "ended without a result"


def test_damaged_lines_of_the_record_of_submitted_jobs_are_left_out(tmp_path):
    jobs = [SubmittedJob("a", "7_0", 4, "x"), SubmittedJob("b", "7_1", 4, "y")]
    (tmp_path / FOLDER).mkdir()
    add_jobs(tmp_path, jobs[:1])
    with (tmp_path / FOLDER / "jobs.jsonl").open("a") as file:
        file.write('[1]\n{"run": "c"}\n{"run": \n\0\0\n')
    add_jobs(tmp_path, jobs[1:])
    assert read_jobs(tmp_path) == {"a": jobs[0], "b": jobs[1]}
