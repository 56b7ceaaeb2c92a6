"""Settings that are changed when a run is resumed: applied, recorded, and refused where the run could not go on."""

import shutil

import pytest
from runs import ends_with, own_reward, run

from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.report.run_data import run_data
from dapo_lightning.run.folder import read_config
from dapo_lightning.study.runs import read_run
from dapo_lightning.utils.changes import read_changes

ADAPTIVE = ("entropy=target", "entropy.target=0.5")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Two steps of a run whose learning rate is warmed up over four, with an option that adapts itself."""
    return run(tmp_path_factory.mktemp("outputs") / "run", "num_steps=2", "num_warmup_steps=4", *ADAPTIVE)


@pytest.fixture
def folder(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


def resume(monkeypatch, folder, *overrides):
    return ends_with(monkeypatch, f"resume={folder}", *overrides, *own_reward(folder))


def rates(folder):
    return {row["step"]: row["learning_rate"] for row in read_metrics(folder / "metrics.csv") if "loss" in row}


def test_changes_are_applied_and_recorded(folder, monkeypatch):
    given = ("optimizer.lr=5e-4", "clip.upper=1.4", "entropy=target", "entropy.target=0.9", "evaluation.every=1")
    assert resume(monkeypatch, folder, "num_steps=5", "changes=true", *given) == ""
    assert rates(folder) == pytest.approx({1: 2.5e-4, 2: 5e-4, 3: 3.75e-4, 4: 5e-4, 5: 5e-4})
    config = read_config(folder)
    assert (config["optimizer"]["lr"], config["clip"]["upper"], config["entropy"]["target"]) == (5e-4, 1.4, 0.9)
    assert config["changes"] is False
    recorded = {change["key"]: (change["step"], change["old"], change["new"]) for change in read_changes(folder)}
    assert recorded == {
        "optimizer.lr": (2, 1e-3, 5e-4), "clip.upper": (2, 1.28, 1.4), "entropy.target": (2, 0.5, 0.9),
        "evaluation.every": (2, 2, 1), "num_steps": (2, 2, 5),
    }  # fmt: skip
    assert [row["step"] for row in read_metrics(folder / "metrics.csv") if "validation/avg@2" in row] == [0, 2, 3, 4, 5]
    says = "optimizer.lr was changed from 0.001 to 0.0005 after step 2"
    assert f"{says}." in run_data(folder, 1.0)["warnings"] and says in read_run(folder, folder).anomalies


def test_a_change_is_applied_even_if_the_run_was_killed_before_its_next_checkpoint(folder, monkeypatch):
    before = shutil.copytree(folder / "checkpoints", folder.parent / "before")
    assert resume(monkeypatch, folder, "num_steps=3", "changes=true", "optimizer.lr=5e-4") == ""
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    shutil.copytree(before, folder / "checkpoints", dirs_exist_ok=True)
    assert resume(monkeypatch, folder, "num_steps=3") == ""
    assert rates(folder)[3] == pytest.approx(3.75e-4)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("optimizer.lr=5e-4", "optimizer.lr=5e-4 would have no effect: add changes=true to change it from here on"),
        ("changes=true policy.hidden_size=64", "the checkpoint holds weights of the policy of this run"),
        ("changes=true seed=3", "the same random numbers and the same order of prompts"),
        ("changes=true loss=sample_level", "because another option needs a new run"),
        ("changes=true num_completions_per_prompt=8", "because it is part of the run itself"),
    ],
)
def test_what_would_break_the_run_is_refused(begun, given, says, monkeypatch):
    said = resume(monkeypatch, begun, "num_steps=4", *given.split(" "))
    assert said.startswith("error: ") and says in said, said
    assert not read_changes(begun)


def test_changes_are_for_resuming(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "changes=true is for resume" in ends_with(monkeypatch, "changes=true", "optimizer.lr=1e-4")
