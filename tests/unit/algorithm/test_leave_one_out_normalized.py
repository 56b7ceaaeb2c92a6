import statistics

import pytest
import torch

from dapo_lightning.algorithm.leave_one_out_normalized import LeaveOneOutNormalized


def advantages(rewards, epsilon=0.0):
    return LeaveOneOutNormalized(epsilon)(torch.tensor(rewards), [])[..., 0]


def test_by_hand():
    # others of 3: 1 and 2, mean 1.5, std sqrt(1/2); others of 1: 2 and 3; others of 2: 1 and 3, mean 2, std sqrt(2)
    expected = torch.tensor([[-1.5 * 2**0.5, 0.0, 1.5 * 2**0.5]])
    torch.testing.assert_close(advantages([[1.0, 2.0, 3.0]]), expected)


def test_where_the_others_do_not_differ_nothing_is_divided():
    # the only right one among four: the others are all -1; the others of a wrong one are -1, -1, 1 with mean -1/3
    std = statistics.stdev([-1, -1, 1])
    found = advantages([[1.0, -1.0, -1.0, -1.0]])
    torch.testing.assert_close(found, torch.tensor([[2.0, *[(-1 + 1 / 3) / std] * 3]]))


def test_the_slow_obvious_loop():
    rewards = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    for row, found in zip(rewards.tolist(), advantages(rewards.tolist(), 1e-6), strict=True):
        for i, reward in enumerate(row):
            others = row[:i] + row[i + 1 :]
            expected = (reward - statistics.fmean(others)) / (statistics.stdev(others) + 1e-6)
            assert found[i].item() == pytest.approx(expected, rel=1e-4)


def test_equal_rewards_give_exactly_zero_and_pairs_are_refused():
    assert not advantages([[0.1] * 7]).any()
    with pytest.raises(ValueError, match="num_completions_per_prompt=2 must be at least 3"):
        advantages([[1.0, -1.0]])
