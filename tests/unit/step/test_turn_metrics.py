"""Metrics by turn, with numbers worked out by hand."""

from dataclasses import replace

import pytest
from conftest import make_group

from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.reward.exact import Exact
from dapo_lightning.step.metrics import evaluation_metrics
from dapo_lightning.step.turns import turn_metrics
from dapo_lightning.types import Grade

R, W = True, False


def record(*rows):
    """A prompt whose completions were right or wrong in these turns; turn k has 10 * k tokens."""
    group = make_group(0, [1.0 if row[-1] else -1.0 for row in rows])
    grades = tuple(tuple(Grade(float(right), right, answer="1" if right else "0") for right in row) for row in rows)
    tokens = tuple(tuple(10 * turn for turn in range(1, 1 + len(row))) for row in rows)
    return replace(GroupRecord.of(replace(group, turn_grades=grades)), turn_tokens=tokens)


RECORDS = [record((R,), (W, R)), record((R, W), (W, W, R))]


def test_accuracy_rises_by_what_is_corrected_and_falls_by_what_is_spoilt():
    metrics = turn_metrics(RECORDS)
    assert metrics == {
        "turns/mean": 2.0, "turns/tokens_1": 10.0, "turns/tokens_2": 20.0, "turns/tokens_3": 30.0,
        "turns/accuracy_1": 0.5, "turns/accuracy_2": 0.5, "turns/accuracy_3": 0.75,
        "turns/corrected": 0.5, "turns/spoilt": 0.25,
    }  # fmt: skip
    difference = metrics["turns/corrected"] - metrics["turns/spoilt"]
    assert metrics["turns/accuracy_3"] - metrics["turns/accuracy_1"] == difference


def test_an_evaluation_has_all_accuracies_at_each_turn_before_the_last():
    metrics = evaluation_metrics(RECORDS, Exact("#"))
    assert (metrics["avg@2"], metrics["pass@2"]) == (0.75, 1.0)
    assert (metrics["turn_1/avg@2"], metrics["turn_1/pass@2"], metrics["turn_1/maj@2"]) == (0.5, 1.0, 0.5)
    assert (metrics["turn_2/avg@2"], metrics["turn_2/pass@2"]) == (0.5, 0.5)
    assert "turn_3/avg@2" not in metrics and "turn_1/avg@2_ci95" in metrics
    assert (metrics["corrected"], metrics["spoilt"], metrics["turns"]) == (0.5, 0.25, 2.0)


def test_a_single_turn_has_no_metrics_by_turn():
    records = [GroupRecord.of(make_group(0, [1.0, -1.0]))]
    assert turn_metrics(records) == {}
    assert not [name for name in evaluation_metrics(records, Exact("#")) if "turn" in name]


def test_turns_that_are_not_graded_have_only_lengths():
    records = [replace(RECORDS[0], turn_correct=((), ()), turn_votes=((), ()))]
    assert set(turn_metrics(records)) == {"turns/mean", "turns/tokens_1", "turns/tokens_2"}
    metrics = evaluation_metrics(records, Exact("#"))
    assert metrics["turns"] == pytest.approx(1.5) and "corrected" not in metrics
