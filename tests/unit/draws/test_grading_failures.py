"""What an exception of the reward on one completion does to a run."""

from dataclasses import replace

import pytest
from conftest import make_group

from dapo_lightning.draws.graded import Failures
from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.reward import RewardError
from dapo_lightning.reward.exact import Exact
from dapo_lightning.reward.function import Function
from dapo_lightning.reward.weighted import Weighted
from dapo_lightning.types import Grade


def records(*details: str) -> list[GroupRecord]:
    """Of a group of 16 completions, on some of which the reward raised these exceptions."""
    failed = [Grade(0.0, correct=False, failure="error", detail=detail) for detail in details]
    grades = [*failed, *[Grade(1.0, correct=True)] * (16 - len(failed))]
    return [GroupRecord.of(replace(make_group(0, [1.0] * 16), grades=tuple(grades)))]


@pytest.mark.parametrize(
    ("on_error", "stops"),
    [("stop", [True, True, True]), ("stop_early", [True, False, False]), ("wrong", [False, False, False])],
)
def test_when_it_ends_the_run(on_error, stops):
    failures, found = Failures(on_error), records("ValueError: a seven")
    for (where, is_first), ends in zip(
        [("step 1", True), ("step 2", False), ("evaluation", False)], stops, strict=True
    ):
        if ends:
            with pytest.raises(
                RewardError, match=rf"^{where}: .* on 1 of 16 completions, first on test:0: ValueError: a"
            ):
                failures.report(found, where, is_first)
        else:
            failures.report(found, where, is_first)
        failures.report(records(), where, is_first)


def test_each_kind_is_told_once(caplog):
    failures = Failures("wrong")
    for details in (["ValueError: 1"], ["ValueError: 2"], ["part: KeyError: 3", "ValueError: 4"], ["KeyError: '5'"]):
        failures.report(records(*details), "step 2")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and "ValueError: 1" in told[0] and "KeyError: 3" in told[1]


def test_the_strictest_part_of_a_weighted_reward_decides():
    def weighted(*choices):
        parts = {f"p{i}": Function(1, 1.0, 9, path="a.b", on_error=choice) for i, choice in enumerate(choices)}
        return Weighted(dict.fromkeys([*parts, "exact"], 1.0), "exact", exact=Exact("#"), **parts).on_error

    assert [weighted("wrong"), weighted("wrong", "stop_early"), weighted("stop_early", "stop")] == [
        "wrong", "stop_early", "stop",
    ]  # fmt: skip
