"""`evaluation.sets`: further held-out sets, each with its own data, reward and sampling."""

import json
import re

import pytest
from runs import assert_same_weights, ends_with, run

from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.report.run_data import run_data
from dapo_lightning.run import cli
from dapo_lightning.run.compose import compose_run, initialized

OF_SETS = (
    "+data@evaluation.sets.long.data=arithmetic", "evaluation.sets.long.data.min_terms=4",
    "+reward@evaluation.sets.long.reward=exact", "+evaluation.sets.long.num_prompts=3",
    "+evaluation.sets.long.num_completions=4", "+evaluation.sets.long.max_new_tokens=9",
    "+evaluation.sets.greedy={num_completions: 1, temperature: 0, every: 2}",
)  # fmt: skip
TIMES = ("seconds/", "tokens_per_second/", "memory/")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    settings = ("num_steps=3", "evaluation.every=1")
    return run(folder / "without", *settings), run(folder / "with", *settings, *OF_SETS)


def test_a_set_is_evaluated_after_every_so_many_steps_and_after_the_last(runs):
    rows = read_metrics(runs[1] / "metrics.csv")
    measured = {
        name: [row["step"] for row in rows if f"validation/{name}" in row] for name in ("long/avg@4", "greedy/avg@1")
    }
    assert measured == {"long/avg@4": [0, 1, 2, 3], "greedy/avg@1": [0, 2, 3]}
    assert len((runs[1] / "evaluation_greedy.jsonl").read_text().splitlines()) == 8


def test_the_set_of_the_training_data_and_the_training_stay_the_same(runs):
    without, with_sets = runs
    for one, other in zip(read_metrics(without / "metrics.csv"), read_metrics(with_sets / "metrics.csv"), strict=True):
        assert one == {name: other[name] for name in one} | {n: v for n, v in one.items() if n.startswith(TIMES)}
    assert_same_weights(without, with_sets)
    assert (without / "evaluation.jsonl").read_text() == (with_sets / "evaluation.jsonl").read_text()


def test_each_set_has_metrics_completions_and_counts_of_its_own(runs):
    _, folder = runs
    summary = json.loads((folder / "summary.json").read_text())
    found = {name for name in summary["after"] if name.startswith("long/")}
    assert {"long/avg@4", "long/avg@4_ci95", "long/pass@4", "long/reward/mean", "long/reward/no_answer"} <= found
    assert {"greedy/avg@1", "greedy/reward/mean"} <= summary["after"].keys()
    assert not {"greedy/reward/no_answer"} & summary["after"].keys()  # a function reads no answers
    assert summary["after"]["long/reward/mean"] == pytest.approx(2 * summary["after"]["long/avg@4"] - 1)
    assert (summary["prompts"]["long/validation"], summary["prompts"]["long/evaluated"]) == (256, 3)
    assert (summary["prompts"]["greedy/evaluated"], summary["prompts"]["greedy/repeated"]) == (8, 0)
    rows = [json.loads(line) for line in (folder / "evaluation_long.jsonl").read_text().splitlines()]
    assert [row["num_completions"] for row in rows] == [4] * 3
    assert max(completion["num_tokens"] for row in rows for completion in row["completions"]) <= 9
    assert "validation/long/avg@4" in read_metrics(folder / "metrics.csv")[0]
    page = run_data(folder, 1)
    assert page["sets"] == ["long", "greedy"]
    (panel,) = [panel for panel in page["panels"] if panel["title"] == "Other held-out sets"]
    assert set(panel["lines"]) == {("validation/long/avg@4", "long avg@4"), ("validation/greedy/avg@1", "greedy avg@1")}


def test_a_set_in_a_run_folder_cannot_choose_code(runs, tmp_path, monkeypatch):
    code = ["+reward@evaluation.sets.code.reward=function", "evaluation.sets.code.reward.path=rewards.even_length"]
    small = ["policy.warm_start=null", "policy.hidden_size=32", "policy.intermediate_size=64", "policy.num_heads=2"]
    small += ["num_steps=1", "evaluation.num_prompts=2", "sampling=static", "max_new_tokens=4", "data.num_validation=4"]
    small += ["num_prompts_per_step=4", "overlong=none", "evaluation.num_completions=1", "data.num_train=9"]
    monkeypatch.chdir(tmp_path)
    assert ends_with(monkeypatch, *small, *code, "+evaluation.sets.code.num_prompts=2", "run_folder=first") == ""
    refused = ends_with(monkeypatch, "resume=first", "num_steps=2")
    assert "evaluation.sets.code.reward.path" in refused and code[0] in refused and code[1] in refused
    assert ends_with(monkeypatch, "resume=first", "num_steps=2", *code) == ""
    assert "evaluation.sets.code.reward.path" in ends_with(monkeypatch, "mode=evaluate", "checkpoint=first")
    assert ends_with(monkeypatch, "mode=evaluate", "checkpoint=first", *code, "run_folder=again") == ""
    of_run, again = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("first", "again"))
    assert again["metrics"] == of_run["after"] and "code/avg@1" in again["metrics"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+evaluation.sets.a.numbers=1", r"evaluation\.sets\.a\.numbers: there is no such key, only data, reward"),
        ("+evaluation.sets.a.data=gsm8k", r"\+data@evaluation\.sets\.a\.data=<option>"),
        ("+evaluation.sets.turn_1.top_p=0.5", r"evaluation\.sets\.turn_1: a name"),
        ("+evaluation.sets.a.temperature=0", r"evaluation\.sets\.a\.temperature=0.*sets\.a\.num_completions=1"),
        ("+evaluation.sets.a.num_completions=0", r"evaluation\.sets\.a\.num_completions=0: must be .*at least 1"),
        ("+evaluation.sets.a.every=7", r"evaluation\.sets\.a\.every=7: must be a multiple of evaluation\.every=10"),
        ("+evaluation.sets.a.every=0", r"evaluation\.sets\.a\.every=0: must be .*at least 1"),
        ("evaluation.sets.a.top_p=0.5", r"write \+evaluation\.sets\.a\.top_p=0\.5"),
        ("+evaluation.sets=5", r"evaluation\.sets exists already"),
        ("evaluation.sets={a: null}", r"evaluation\.sets\.a=null: a set that .* is written \{\}"),
        ("evaluation.sets=[a]", r"evaluation\.sets=\[a\]: evaluation\.sets is a mapping \{key: value\}"),
        ("evaluation.sets={a: {evry: 3}}", r"evaluation\.sets\.a\.evry: there is no such key"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(override, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(says, ends_with(monkeypatch, override))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("override", ["evaluation.sets={a: {}}", "evaluation={sets: {a: {}}}", "+evaluation.sets.a={}"])
def test_a_set_that_takes_all_settings_from_the_run(override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ends_with(monkeypatch, "mode=plan", override) == ""
    with initialized():
        assert compose_run([override]).evaluation.sets == {"a": {}}


def test_hydra_composes_jobs_with_a_set_that_takes_all_settings_from_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "++evaluation.sets={a: {}}" in cli._checked_command(["-m", "seed=0,1", "evaluation.sets={a: {}}"])
