"""`mode=evaluate`: the same code as during training, on what a run left behind."""

import json
import math
import re
from dataclasses import replace
from statistics import fmean, stdev

import pytest
import torch
from hydra import initialize
from omegaconf import OmegaConf
from runs import SMALL, config, run

from dapo_lightning.policy import Policy
from dapo_lightning.policy.tiny import TinyPolicy
from dapo_lightning.run.cli import main
from dapo_lightning.run.command import as_dict, load_evaluated
from dapo_lightning.run.folder import save_config
from dapo_lightning.utils.checkpoints import latest

CODEC = TinyPolicy.codec
GREEDY = ("+evaluation.sets.greedy={num_completions: 1, temperature: 0}",)


@pytest.fixture(scope="module", autouse=True)
def many_end_tokens():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TinyPolicy, "codec", lambda self: replace(CODEC(self), end_tokens=tuple(range(1, 40))))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose config.yaml holds the overrides it was started with, as on the command line."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    with pytest.MonkeyPatch.context() as patch:
        command_line(patch, folder, *SMALL, f"run_folder={folder}", "kl=k3")
    return folder


def command_line(monkeypatch, folder, *overrides):
    monkeypatch.setattr("sys.argv", ["train.py", f"hydra.run.dir={folder}", *overrides])
    main()
    return json.loads((folder / "summary.json").read_text())


def evaluate(monkeypatch, folder, *overrides):
    named = [] if "policy=hub" in overrides else ["reward=function", "reward.path=rewards.even_length"]
    return command_line(monkeypatch, folder, "mode=evaluate", *named, *overrides)


def test_a_run_is_evaluated_as_it_evaluated_itself(finished, tmp_path, monkeypatch):
    after = json.loads((finished / "summary.json").read_text())["after"]
    of_run = evaluate(monkeypatch, tmp_path / "run", f"checkpoint={finished}")
    assert of_run["metrics"] == after
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").choices.kl == "k3"
    checkpoint = latest(finished / "checkpoints")
    assert evaluate(monkeypatch, tmp_path / "file", f"checkpoint={checkpoint}")["metrics"] == after
    assert of_run["checkpoint"] == str(checkpoint) and of_run["prompts"] == {
        "validation": 8, "validation_dropped": 0, "evaluated": 8,
    }  # fmt: skip


def test_several_checkpoints_are_one_table_and_one_figure(finished, tmp_path, monkeypatch, capsys):
    whole = json.loads((finished / "summary.json").read_text())
    summary = evaluate(monkeypatch, tmp_path / "all", f"checkpoint={finished / 'checkpoints'}", *GREEDY)
    assert [one["step"] for one in summary["evaluations"]] == [3, 4]
    assert summary["evaluations"][-1]["metrics"] == summary["metrics"] and "greedy/avg@1" in summary["metrics"]
    assert summary["metrics"] | whole["after"] == summary["metrics"]  # each as if it were alone
    text = capsys.readouterr().out
    assert re.search(r"checkpoint +avg@2 +greedy/avg@1\nstep 3 +\d.* ± .*\nstep 4 +\d.* ± ", text)
    assert {path.name for path in (tmp_path / "all").glob("completions_*/*")} == {
        "evaluation.jsonl", "evaluation_greedy.jsonl",
    }  # fmt: skip
    assert (tmp_path / "all" / "evaluation.png").stat().st_size > 5000
    files = sorted((finished / "checkpoints").iterdir())
    listed = evaluate(monkeypatch, tmp_path / "two", f"checkpoint=[{finished},{files[0]}]")
    assert [one["step"] for one in listed["evaluations"]] == [4, 3]
    assert listed["evaluations"][0]["metrics"] == whole["after"]


def test_it_says_how_many_of_the_prompts_were_evaluated(finished, tmp_path, monkeypatch, capsys):
    summary = evaluate(monkeypatch, tmp_path / "run", f"checkpoint={finished}", "evaluation.num_prompts=3")
    assert summary["prompts"] == {"validation": 8, "validation_dropped": 0, "evaluated": 3}
    assert "3 of 8 held-out prompts" in capsys.readouterr().out


def test_a_greedy_evaluation_does_not_depend_on_the_seed(finished, tmp_path, monkeypatch):
    greedy = [f"checkpoint={finished}", "evaluation.temperature=0", "evaluation.num_completions=1"]
    first, second = (evaluate(monkeypatch, tmp_path / seed, *greedy, f"seed={seed}")["metrics"] for seed in "12")
    assert first == second and {"avg@1", "entropy"} <= first.keys()


def test_one_prompt_has_no_interval(finished, tmp_path, monkeypatch):
    evaluate(monkeypatch, tmp_path / "run", f"checkpoint={finished}", "evaluation.num_prompts=1")
    assert "NaN" not in (tmp_path / "run" / "summary.json").read_text()


def test_evaluation_needs_no_reference(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(Policy, "reference", lambda self: pytest.fail("copied the policy"))
    evaluate(monkeypatch, tmp_path / "run", f"checkpoint={finished}", "evaluation.num_prompts=1")


RECIPE = "recipe=smollm2_chain_sum"


@pytest.mark.parametrize(
    ("of_run", "now", "fresh"),
    [
        (["reward=math", "reward.pattern=x"], ["reward=exact"], ["reward"]),
        (["reward=math", "+reward.pattern=x"], ["reward=math"], ["reward"]),  # the old pattern would fit, silently
        (["data.num_train=10"], ["data=gsm8k", "data.unique=true"], ["data"]),
        (["data=jsonl", "data.train_path=a", "data.validation_path=b"], [RECIPE], ["policy", "data", "reward"]),
        ([RECIPE, "reward.pattern=x"], ["data=gsm8k", "reward=math"], ["data", "reward"]),
        ([RECIPE], ["data=reasoning_gym", "data.task=gcd"], ["data"]),
        ([RECIPE], ["policy=tiny"], ["policy"]),
    ],
)
def test_a_group_named_now_starts_afresh(of_run, now, fresh, tmp_path):
    """Nothing that the old run, or its recipe, set in that group is left; the rest of the old run stays."""
    (tmp_path / "checkpoints").mkdir()
    torch.save({}, file := tmp_path / "checkpoints" / "step_000001.ckpt")
    origin = {"choices": {}, "overrides": ["max_new_tokens=5", *of_run], "commits": []}
    save_config(as_dict(config(f"run_folder={tmp_path}")) | origin, tmp_path)
    given = config("mode=evaluate", f"checkpoint={file}", "run_folder=x", *now)
    with initialize(version_base="1.3", config_path="../../conf"):
        composed = load_evaluated(given)
    assert composed.max_new_tokens == 5 and composed.mode == "evaluate"
    before, anew = config(*of_run, "run_folder=x"), config(*now, "run_folder=x")
    for group in ("policy", "data", "reward"):
        expected = (anew if group in fresh else before)[group]
        if group == "policy" and "warm_start" in expected:
            expected.warm_start = None
        unresolved = [OmegaConf.to_container(options, resolve=False) for options in (composed[group], expected)]
        assert unresolved[0] == unresolved[1], group


def test_its_own_sampling_and_any_policy_folder(finished, tmp_path, monkeypatch):
    small = [o for o in SMALL if not o.startswith(("policy.", "evaluation."))]
    summary = evaluate(
        monkeypatch, tmp_path / "run", *small, "policy=hub", f"policy.name={finished / 'policy'}", "policy.chat=false",
        "evaluation.num_prompts=null", "evaluation.num_completions=8", "evaluation.top_p=0.7",
        "evaluation.max_new_tokens=5",
    )  # fmt: skip
    assert summary["prompts"]["validation"] == 8
    assert {"avg@8", "pass@2", "pass@4", "pass@8", "avg@8_ci95", "pass@8_ci95"} <= set(summary["metrics"])
    rows = [json.loads(line) for line in (tmp_path / "run" / "evaluation.jsonl").read_text().splitlines()]
    assert [row["num_completions"] for row in rows] == [8] * 8
    assert max(completion["num_tokens"] for row in rows for completion in row["completions"]) == 5
    of_prompts = [row["num_correct"] / 8 for row in rows]
    assert summary["metrics"]["avg@8"] == pytest.approx(fmean(of_prompts))
    assert summary["metrics"]["avg@8_ci95"] == pytest.approx(1.96 * stdev(of_prompts) / math.sqrt(8))


def test_training_leaves_the_last_evaluation_prompt_by_prompt(finished):
    rows = [json.loads(line) for line in (finished / "evaluation.jsonl").read_text().splitlines()]
    assert {"source", "prompt", "answer", "num_correct", "completions"} <= set(rows[0])
    after = json.loads((finished / "summary.json").read_text())["after"]
    assert fmean(row["num_correct"] / row["num_completions"] for row in rows) == pytest.approx(after["avg@2"])


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["mode=evaluate", "checkpoint=nowhere"], "checkpoint=nowhere"),
        (["checkpoint=nowhere"], "mode=evaluate"),
        (["resume=nowhere", "mode=evaluate"], "resume continues training"),
        (["mode=test"], "choose train, evaluate, plan or doctor"),
        (["reward=reasoning_gym"], "data.task"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(overrides, says, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", f"hydra.run.dir={tmp_path}", *overrides])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert says in str(exit_.value) and str(exit_.value).startswith("error: ")


def test_prompts_that_are_too_long_are_dropped_and_counted(tmp_path, caplog):
    folder = run(tmp_path / "run", "max_prompt_tokens=7", "data.num_train=200", "data.num_validation=100",
                 "evaluation.num_prompts=null", "num_steps=1")  # fmt: skip
    prompts = json.loads((folder / "summary.json").read_text())["prompts"]
    assert prompts["train"] + prompts["train_dropped"] == 200 and prompts["train_dropped"] > 0
    assert prompts["validation"] + prompts["validation_dropped"] == 100 and prompts["validation_dropped"] > 0
    rows = [json.loads(line) for line in (folder / "evaluation.jsonl").read_text().splitlines()]
    assert len(rows) == prompts["validation"]
    assert any("more than max_prompt_tokens=7 tokens" in record.message for record in caplog.records)
