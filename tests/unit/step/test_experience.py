"""The loss of a mini-batch may not depend on how it is cut: into micro-batches, or over ranks."""

import pytest
import torch
from conftest import algorithm, make_group, mini_batch, mini_batches, tiny
from losses import gradient, on_policy

from dapo_lightning.algorithm.kl import K3
from dapo_lightning.algorithm.loss import Blend, SampleLevel, TokenLevel, TokenLevelPerPrompt
from dapo_lightning.algorithm.overlong import Filter, Punish, PunishAndFilter
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.forward.micro_batches import micro_batches
from dapo_lightning.step.experience import placeholder

LOSSES = [TokenLevel(), TokenLevelPerPrompt(), SampleLevel(), Blend(0.3)]
GROUPS = [
    make_group(0, [1, -1, 1], [2, 9, 4]),
    make_group(1, [-1, -1, 1], [12, 1, 7], [True, False, False]),
    make_group(2, [1, 1, -1], [5, 5, 12], [False, False, True]),
    make_group(3, [-1, 1, -1], [3, 8, 6]),
]


def with_logps(mini_batch):
    return on_policy(mini_batch.rows, reference_gap=0.1)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("overlong", [Punish(12, 6), Filter()], ids=repr)
def test_invariant_to_micro_batches_and_ranks(loss, overlong):
    # Sums of about 100 float32 terms in another order: 1e-5 of the largest entry is some tens of roundings.
    options = algorithm(loss=loss, overlong=overlong, kl=K3(0.1))
    model = tiny(seed=1).model
    whole = mini_batch(GROUPS, options)
    expected, loss_value, metrics = gradient(model, with_logps(whole), options)
    tolerance = 1e-5 * expected.abs().max().item()
    for max_tokens in (1, 15, 40):
        cut, cut_loss, cut_metrics = gradient(model, with_logps(whole), options, max_tokens)
        torch.testing.assert_close(cut, expected, atol=tolerance, rtol=0)
        assert cut_loss == pytest.approx(loss_value, rel=1e-4, abs=1e-6)
        assert cut_metrics["ratio/mean"].count == metrics["ratio/mean"].count == whole.num_tokens
        for name in metrics:
            assert cut_metrics[name].value == (metrics[name].value and pytest.approx(metrics[name].value, 1e-4)), name
    for size in (2, 3, 4):
        shares = [mini_batch(GROUPS, options, Ranks(rank, size)) for rank in range(size)]
        total = sum(gradient(model, with_logps(share), options, 40)[0] for share in shares)
        torch.testing.assert_close(total, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_objective_of_the_kit_is_the_slow_obvious_loop(loss):
    """At ratio 1 and without shaping, the loss is minus the weighted mean of advantages."""
    options = algorithm(loss=loss)
    batch = mini_batch(GROUPS, options)
    by_group = [
        [(row.advantages.item(), row.trajectory.num_tokens) for row in batch.rows[i : i + 3]] for i in (0, 3, 6, 9)
    ]
    flat = [pair for group in by_group for pair in group]
    token = sum(a * t for a, t in flat) / sum(t for _, t in flat)
    per_prompt = sum(sum(a * t for a, t in group) / sum(t for _, t in group) for group in by_group) / 4
    sample = sum(a for a, _ in flat) / 12
    expected = {LOSSES[0]: token, LOSSES[1]: per_prompt, LOSSES[2]: sample, LOSSES[3]: 0.7 * sample + 0.3 * token}
    ours = sum(row.weights.item() * row.advantages.item() * row.trajectory.num_tokens for row in batch.rows)
    assert ours == pytest.approx(expected[loss], abs=1e-6)


def test_punishment_shapes_the_reward_and_filter_the_mask():
    punished = mini_batch(GROUPS, algorithm(overlong=Punish(12, 6)))
    filtered = mini_batch(GROUPS, algorithm(overlong=Filter()))
    both = mini_batch(GROUPS, algorithm(overlong=PunishAndFilter(12, 6)))
    neither = mini_batch(GROUPS, algorithm())
    assert [row.advantages.item() for row in punished.rows] != [row.advantages.item() for row in neither.rows]
    assert len(punished.rows) == len(neither.rows) == 12 and len(filtered.rows) == len(both.rows) == 10
    assert filtered.num_tokens == neither.num_tokens - 24
    # A truncated completion still counts in its group's baseline.
    kept = [row.advantages.item() for row in neither.rows if not row.trajectory.truncated]
    assert [row.advantages.item() for row in filtered.rows] == kept


def test_zero_advantage_means_zero_gradient():
    options = algorithm()
    batch = mini_batch([make_group(0, [1, 1, 1]), make_group(1, [-1, -1, -1])], options)
    grad, loss, _ = gradient(tiny(seed=1).model, with_logps(batch), options)
    assert loss == 0.0 and not grad.any()


def test_mini_batches_hold_whole_groups_and_cover_them():
    batches = mini_batches(GROUPS, algorithm(), num_gradient_steps=2)
    assert [len(batch.rows) for batch in batches] == [6, 6]
    assert sum(batch.num_tokens for batch in batches) == sum(int(group.lengths_G().sum()) for group in GROUPS)
    for batch in batches:  # each has its own denominator
        assert sum(row.weights.item() * row.trajectory.num_tokens for row in batch.rows) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("num_groups", [0, 1, 3])
def test_a_partial_batch_leaves_mini_batches_empty_not_broken(num_groups):
    batches = mini_batches(GROUPS[:num_groups], algorithm(), num_gradient_steps=4)
    assert len(batches) == 4 and sum(bool(batch.rows) for batch in batches) == num_groups


def test_all_masked_is_an_empty_mini_batch():
    batch = mini_batch([make_group(0, [1, -1], [5, 5], [True, True])], algorithm(overlong=Filter()))
    assert batch.rows == () and batch.num_tokens == 0


def test_placeholder_adds_nothing():
    options, model = algorithm(kl=K3(0.1)), tiny(seed=1).model
    grad, loss, metrics = gradient(model, [placeholder(1)], options)
    assert loss == 0.0 and not grad.any()
    assert all(reduced.value in (None, 0.0) for reduced in metrics.values())


def test_micro_batches_respect_the_budget_and_waste_little():
    rows = [1, 2, 3, 50, 49, 2, 2]
    parts = micro_batches(rows, lambda row: row, max_tokens=10)
    assert sorted(row for part in parts for row in part) == sorted(rows)
    assert all(len(part) == 1 or len(part) * max(part) <= 10 for part in parts)
    assert parts == [[50], [49], [3, 2, 2], [2, 1]]
