import math

import pytest
import torch
from conftest import make_group
from runs import assert_same_weights, run

from dapo_lightning.algorithm.sampling import Dynamic, SamplingError, Static
from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.draws.ahead import KeepRate
from dapo_lightning.run import build


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
    assert dynamic.next_round(missing=8, keep_rate=1.0, rounds_done=0) == 8
    assert dynamic.next_round(missing=4, keep_rate=0.5, rounds_done=0) == 8
    assert dynamic.next_round(missing=3, keep_rate=6 / 9, rounds_done=1) == 5  # 4.5 rounded up
    assert dynamic.next_round(missing=8, keep_rate=0.01, rounds_done=1) == 32  # at most four times
    assert dynamic.next_round(missing=8, keep_rate=0.0, rounds_done=1) == 32
    assert dynamic.next_round(missing=8, keep_rate=1e-320, rounds_done=1) == 32
    assert dynamic.next_round(missing=0, keep_rate=1.0, rounds_done=1) == 0
    assert dynamic.next_round(missing=1, keep_rate=0.9, rounds_done=3) == 0


def test_max_oversampling_bounds_every_round():
    assert Dynamic(3, "error", max_oversampling=1).next_round(missing=8, keep_rate=0.5, rounds_done=0) == 8
    assert Dynamic(3, "error", max_oversampling=1.5).next_round(missing=3, keep_rate=0.5, rounds_done=0) == 4
    assert Dynamic(3, "error", max_oversampling=1.5).next_round(missing=1, keep_rate=0.5, rounds_done=0) == 1


def test_static_is_one_round():
    assert Static().next_round(missing=8, keep_rate=0.5, rounds_done=0) == 8
    assert Static().next_round(missing=0, keep_rate=1.0, rounds_done=1) == 0


def test_at_the_cap():
    reasons = {"all_wrong": 5, "useful": 1}
    with pytest.raises(SamplingError, match=r"3 useful groups short.*5 all_wrong.*max_rounds"):
        Dynamic(2, "error").shortfall(3, reasons)
    assert "3 useful groups short" in Dynamic(2, "train_partial").shortfall(3, reasons)
    assert Dynamic(2, "error").shortfall(0, reasons) is None


@pytest.mark.parametrize(
    ("rounds", "at_cap", "others", "key"),
    [(0, "error", (), "max_rounds"), (1, "ignore", (), "at_cap"), (1, "error", (0.9,), "max_oversampling"),
     (1, "error", (math.nan,), "max_oversampling"), (1, "error", (math.inf,), "max_oversampling"),
     (1, "error", (4, "keep"), r"sampling\.surplus='keep': choose 'drop' or 'carry'")],
)  # fmt: skip
def test_options_without_meaning_are_refused(rounds, at_cap, others, key):
    with pytest.raises(ValueError, match=key):
        Dynamic(rounds, at_cap, *others)


LEARNING = (
    "max_new_tokens=40", "optimizer.lr=3e-3", "num_steps=5", "sampling.max_rounds=100", "callbacks.checkpoint.every=5",
    "evaluation.every=5", "evaluation.num_prompts=2",
)  # fmt: skip


def steps(folder):
    return [row for row in read_metrics(folder / "metrics.csv") if row["step"] > 0]


def test_how_much_is_sampled_at_once_cannot_change_the_run(tmp_path, monkeypatch):
    """One group at a time in the rollout: more rows at once are rounded otherwise."""
    other = run(tmp_path / "learned", *LEARNING, "rollout.max_rows=4")
    monkeypatch.setattr(KeepRate, "value", 1.0)
    one = run(tmp_path / "never", *LEARNING, "rollout.max_rows=4")
    assert_same_weights(one, other)
    rounds = [[row["sampling/rounds"] for row in steps(folder)] for folder in (one, other)]
    assert sum(rounds[0]) > sum(rounds[1]) >= 5
    for name in ("loss", "groups/useful", "length/mean"):
        assert [row[name] for row in steps(one)] == [row[name] for row in steps(other)], name


def test_carried_groups_have_the_log_probs_of_the_policy_that_sampled_them(tmp_path, monkeypatch):
    """In float32, where those recorded while sampling are the truth; training is made to recompute them."""
    trained = []

    def recomputing(config, original=build.set_up):
        module, data, trainer = original(config)
        step, module.host.logps_are_exact = module.gradient_step, False
        module.gradient_step = lambda batch, ranks: (
            trained.append((module.history.dapo_steps, batch)) or step(batch, ranks)
        )
        return module, data, trainer

    monkeypatch.setattr(build, "set_up", recomputing)
    folder = run(tmp_path / "run", *LEARNING, "sampling.surplus=carry")
    for _, batch in trained:
        for row in batch.rows:
            torch.testing.assert_close(row.trajectory.old_logps_T, row.trajectory.logps_T, atol=1e-4, rtol=0)
    carried = [batch for step, batch in trained if any(row.trajectory.policy_step < step for row in batch.rows)]
    assert carried and len(carried) < len(trained)
    shares = [row["groups/carried"] for row in steps(folder)]
    assert shares[0] == 0 and 0 < max(shares) < 1
    first_gaps = [row["sampling/logp_gap"] for row in steps(folder)]
    assert [gap > 1e-3 for gap in first_gaps] == [share > 0 for share in shares]
