import pytest
from conftest import make_group

from dapo_lightning.algorithm.sampling import Dynamic, SamplingError, Static


@pytest.mark.parametrize(
    ("scores", "keep", "reason"),
    [([1, 1, 1], False, "all_correct"), ([-1, -1, -1], False, "all_wrong"), ([1, -1, -1], True, "useful")],
)
def test_keep_rule(scores, keep, reason):
    verdict = Dynamic(6, "error").verdict(make_group(0, scores))
    assert (verdict.keep, verdict.reason) == (keep, reason)
    assert Static().verdict(make_group(0, scores)).reason == reason
    assert Static().verdict(make_group(0, scores)).keep


def test_keep_rule_reads_raw_correctness_not_the_score():
    group = make_group(0, [-1.0, -1.4, -2.0])  # all wrong, but of different length: the shaped rewards differ
    assert not Dynamic(6, "error").verdict(group).keep


def test_rounds_ask_for_what_the_keep_rate_says():
    dynamic = Dynamic(max_rounds=3, at_cap="error")
    assert dynamic.next_round(missing=8, num_seen=0, num_kept=0, rounds_done=0) == 8
    assert dynamic.next_round(missing=4, num_seen=8, num_kept=4, rounds_done=1) == 8
    assert dynamic.next_round(missing=3, num_seen=9, num_kept=6, rounds_done=1) == 5  # 4.5 rounded up
    assert dynamic.next_round(missing=8, num_seen=100, num_kept=1, rounds_done=1) == 32  # at most four times
    assert dynamic.next_round(missing=8, num_seen=8, num_kept=0, rounds_done=1) == 32
    assert dynamic.next_round(missing=0, num_seen=8, num_kept=8, rounds_done=1) == 0
    assert dynamic.next_round(missing=1, num_seen=8, num_kept=7, rounds_done=3) == 0


def test_static_is_one_round():
    assert Static().next_round(missing=8, num_seen=0, num_kept=0, rounds_done=0) == 8
    assert Static().next_round(missing=0, num_seen=8, num_kept=8, rounds_done=1) == 0


def test_at_the_cap():
    reasons = {"all_wrong": 5, "useful": 1}
    with pytest.raises(SamplingError, match=r"3 useful groups short.*5 all_wrong.*max_rounds"):
        Dynamic(2, "error").at_end(3, reasons)
    assert "3 useful groups short" in Dynamic(2, "train_partial").at_end(3, reasons)
    assert Dynamic(2, "error").at_end(0, reasons) is None


@pytest.mark.parametrize(("rounds", "at_cap", "key"), [(0, "error", "max_rounds"), (1, "ignore", "at_cap")])
def test_options_without_meaning_are_refused(rounds, at_cap, key):
    with pytest.raises(ValueError, match=key):
        Dynamic(rounds, at_cap)
