"""`python train.py -m`: every combination is a run of its own, with its own folder, and can be gone on with."""

import json
import shutil
import signal
from contextlib import contextmanager

import pytest
from omegaconf import OmegaConf
from runs import SMALL, assert_same_weights, command, config, ends_with, wait_for

from dapo_lightning.run import cli
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.folder import continuation, lock_folder, save_config


def sweep(folder, *overrides):
    process = command(folder, "-m", *SMALL, *overrides, f"hydra.sweep.dir={folder}")
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def runs_by_clip(folder):
    return {
        OmegaConf.load(path.parent / "config.yaml").clip.upper: path.parent for path in folder.glob("*/summary.json")
    }


def test_a_failed_job_does_not_sink_the_rest_and_an_interrupted_sweep_goes_on(tmp_path):
    folder = tmp_path / "sweep"
    returned, output = sweep(folder, "clip.upper=0.28,1.2,1.28", "hydra/launcher=cores", "hydra.launcher.n_jobs=2")
    assert returned == 1 and output.count("failed: clip.upper=0.28") == 1, output
    assert "Traceback" not in output
    assert "DAPO:" not in output  # progress bars of jobs side by side
    first = runs_by_clip(folder)
    assert set(first) == {1.2, 1.28} and len(list(folder.glob("*/train.log"))) == 3
    for run in first.values():
        assert json.loads((run / "summary.json").read_text())["dapo_steps"] == 4

    shutil.copytree(folder, tmp_path / "straight")
    (first[1.2] / "summary.json").unlink()
    for checkpoint in sorted((first[1.2] / "checkpoints").iterdir())[1:]:  # as if killed after the third step
        checkpoint.unlink()
    (first[1.28] / "metrics.csv").unlink()  # what is done is left alone
    returned, output = sweep(folder, "clip.upper=1.2,1.28,1.3")
    assert returned == 0 and output.count("is finished already") == 1, output
    assert {path.name.rpartition("-")[0] for path in folder.glob("*/")} == {
        f"clip.upper-{upper}" for upper in (0.28, 1.2, 1.28, 1.3)
    }
    second = runs_by_clip(folder)
    assert set(second) == {1.2, 1.28, 1.3} and not (second[1.28] / "metrics.csv").exists()
    assert_same_weights(second[1.2], tmp_path / "straight" / first[1.2].name)


def test_a_job_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path, monkeypatch):
    folder = tmp_path / "sweep"
    assert sweep(folder, "clip.upper=1.2")[0] == 0
    (run,) = folder.glob("*/")
    before = (run / "metrics.csv").read_text().split("\n")
    shutil.rmtree(run / "checkpoints")
    (run / "summary.json").unlink()
    assert sweep(folder, "clip.upper=1.2")[0] == 0
    after = (run / "metrics.csv").read_text().split("\n")
    assert [line.split(",")[:3] for line in after] == [line.split(",")[:3] for line in before]
    assert [path.name for path in sorted((run / "rollouts").iterdir())] == [
        f"step_{step:06d}.parquet" for step in (1, 2, 3, 4)
    ]
    run.rename(tmp_path / "finished")

    @contextmanager
    def lock_after_another_sweep(folder):
        shutil.copytree(tmp_path / "finished", run, dirs_exist_ok=True)
        with lock_folder(folder):
            yield

    monkeypatch.setattr(cli, "lock_folder", lock_after_another_sweep)
    assert ends_with(monkeypatch, "-m", *SMALL, "clip.upper=1.2", f"hydra.sweep.dir={folder}") == ""
    assert (run / "metrics.csv").read_text().split("\n") == after


def test_a_folder_with_other_settings_is_refused(tmp_path):
    composed = OmegaConf.to_container(config(*SMALL, f"run_folder={tmp_path}"), resolve=True)
    assert continuation(composed) == {}
    origin = {"choices": {}, "overrides": [], "commits": ["c0ffee"]}
    save_config(origin | composed | {"clip": {**composed["clip"], "upper": 1.9}}, tmp_path)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match=r"clip\.upper was 1\.9 and is 1\.28.*Remove that folder"):
        continuation(composed)
    save_config(origin | composed, tmp_path)
    assert continuation(composed) == {"resume": str(tmp_path), "commits": ["c0ffee"]}
    save_config(origin | composed | {"callbacks": {}}, tmp_path)  # by an earlier version, say
    assert continuation(composed)["resume"] == str(tmp_path)
    link = tmp_path / "link"  # to a larger disk, say
    link.symlink_to(tmp_path)
    moved = OmegaConf.to_container(config(*SMALL, f"run_folder={link}"), resolve=True)
    assert continuation(moved)["resume"] == str(link)


def test_two_processes_do_not_work_on_one_run(tmp_path):
    """As when a sweep is repeated while its jobs are still in SLURM's hands."""
    run = [o for o in SMALL if not o.startswith("num_steps")] + ["num_steps=1000", "clip.upper=1.2"]
    first = command(tmp_path / "sweep", "-m", *run, "hydra.sweep.subdir=run", f"hydra.sweep.dir={tmp_path}/sweep")
    wait_for((tmp_path / "sweep/run/checkpoints/step_000002.ckpt").exists, first)
    returned, output = sweep(tmp_path / "sweep", *run, "hydra.sweep.subdir=run")
    assert returned == 1 and "sweep/run: another process is working on this run" in output
    first.terminate()
    first.communicate(timeout=60)
    assert first.returncode == 128 + signal.SIGTERM


def test_runs_of_several_processes_are_refused_in_a_sweep_on_one_machine(tmp_path):
    returned, output = sweep(tmp_path / "sweep", "trainer=ddp_cpu", "clip.upper=1.2,1.3")
    assert returned == 1 and "a sweep on this machine starts one process for each run" in output


def test_bad_configuration_ends_with_one_sentence(tmp_path, monkeypatch):
    process = command(tmp_path / "run", "clip.upper=0.28")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 1 and "error: " in output and "clip.upper=1.28" in output and "Traceback" not in output
    said = ends_with(monkeypatch, "clip=unknown")
    assert "higher" in said and "symmetric" in said
