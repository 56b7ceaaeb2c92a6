"""Whole runs with completions of several turns."""

import json

import pytest
from runs import assert_same_weights, resume, run

from dapo_lightning.callbacks.metrics_file import read_metrics

# Random weights hardly ever write the end token, but often one of these texts.
STOP = "stop=['1','2','3','4','5','6','7','8','9','a','e','i','o','u',' ']"
TURNS = (
    "environment=self_correction", "environment.wrong=no", "environment.right=no", "environment.max_turn_tokens=4",
    "environment.num_turns=3", STOP, "sampling.surplus=carry", "evaluation.every=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("turns") / "run", *TURNS, "num_steps=2")


def test_turns_are_trained_evaluated_and_reported(finished):
    _first, *_, last = read_metrics(finished / "metrics.csv")
    assert last["turns/mean"] > 1 and last["sampling/logp_gap"] < 1e-4  # of all turns, and of nothing else
    assert last["turns/tokens_2"] <= 4 and 0 <= last["turns/accuracy_1"] <= 1
    summary = json.loads((finished / "summary.json").read_text())
    after = summary["after"]
    gain = after["corrected"] - after["spoilt"]
    assert after["avg@2"] - after["turn_1/avg@2"] == pytest.approx(gain) and after["turns"] > 1
    rows = [json.loads(line) for line in (finished / "evaluation.jsonl").read_text().splitlines()]
    assert {len(completion["turns"]) for row in rows for completion in row["completions"]} >= {2}


def test_a_resumed_run_with_turns_and_carried_groups_ends_with_the_same_weights(finished, tmp_path):
    once = run(tmp_path / "once", *TURNS, "num_steps=1")
    resume(once, "num_steps=2")
    assert_same_weights(finished, once)
