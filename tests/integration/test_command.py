"""The command and `dapo_lightning.run`: one process after the other, old names, the package from outside."""

import json
import subprocess
import sys

import pytest
from conftest import tiny
from runs import ROOT

import dapo_lightning
from dapo_lightning.run import cli
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.options import groups, options

DEBUG = ["recipe=debug", "policy.warm_start=null", "num_steps=1", "evaluation.every=1"]


def test_a_notebook_runs_twice_in_one_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = [dapo_lightning.run([*DEBUG, f"run_folder={tmp_path / name}"]) for name in ("one", "two")]
    for result, name in zip(results, ("one", "two"), strict=True):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert result.run_folder == tmp_path / name and result.avg_at_k == summary["after"]["avg@2"]
    with pytest.raises(ConfigError, match=r"Did you mean num_steps\?"):
        dapo_lightning.run(["num_step=1"])


def test_run_folder_holds_the_log_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", *DEBUG, "experiment=ppo_clip", "run_folder='here, we are'"])
    cli.main()
    assert {path.name for path in tmp_path.iterdir()} <= {"here, we are", "outputs"}
    log = (tmp_path / "here, we are" / "train.log").read_text()
    assert "experiment=ppo_clip is now experiment=reinforce_clip" in log and "computing with" in log
    assert "litlogger" not in log and "GPU available" not in log


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    tiny(seed=1).save(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{i}+1=", "answer": i + 1}) + "\n" for i in range(4))
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    paths = ["data.train_path=~/rows.jsonl", "data.validation_path='~/rows.jsonl'"]
    run = [
        "num_steps=1",
        "evaluation.every=1",
        "num_prompts_per_step=4",
        "num_completions_per_prompt=2",
        "max_new_tokens=6",
        "overlong=none",
        "reward=exact",
        "policy=hub",
        "policy.name=~/model",
        "policy.chat=false",
        "evaluation.num_prompts=null",
    ]
    for kind, folder in (("jsonl", "run_folder=~/a"), ("hub", "hydra.run.dir='~/b'")):
        dapo_lightning.run([*run, f"data={kind}", *paths, folder])
    dapo_lightning.run(["resume=~/a", "num_steps=2"])
    dapo_lightning.run(["mode=evaluate", "checkpoint='~/b'", "run_folder=~/c"])
    assert {"a", "b", "c"} <= {path.name for path in tmp_path.iterdir()} and not any((tmp_path / "work").iterdir())


def test_public_names_load_when_they_are_used():
    code = (
        "import sys, dapo_lightning; assert 'torch' not in sys.modules; "
        "from dapo_lightning import Algorithm, DAPOModule, PromptDataModule; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert {"run", "DAPOModule", "Reward"} <= set(dir(dapo_lightning))


def test_help_has_every_group_and_option(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--help"])
    cli.main()
    text = capsys.readouterr().out
    assert all(f"  {group}" in text and all(option in text for option in options(group)) for group in groups())
    assert "num_completions_per_prompt: 16   # size of a group (G)" in text and "ppo_clip" not in text
    monkeypatch.setattr("sys.argv", ["train.py", "--help", "clip"])
    cli.main()
    assert "conf/clip/higher.yaml\n# Clip-Higher" in capsys.readouterr().out


@pytest.mark.parametrize("group", list(groups()))
def test_every_option_says_what_it_is(group):
    assert all(options(group).values()), options(group)


def test_sweeps_over_a_pattern_and_over_a_range_to_search(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "loss=glob(token*)" in cli._checked_command(["-m", "loss=glob(token*)"])
    searched = "clip.upper=interval(1.05,2.0)"
    assert searched in cli._checked_command(["-m", searched])
