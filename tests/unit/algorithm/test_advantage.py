import torch

from dapo_lightning.algorithm.advantage import GroupNormalized, LeaveOneOut, MeanCentered

REWARDS = torch.tensor([[1.0, 1.0, 1.0, -1.0]])


def advantages(option, rewards_PG):
    """One for each completion: all tokens share it."""
    advantages_PG1 = option(rewards_PG, groups=[])
    assert advantages_PG1.shape == (*rewards_PG.shape, 1)
    return advantages_PG1[..., 0]


def test_by_hand():
    # mean 0.5; deviations 0.5, 0.5, 0.5, -1.5; population variance (3*0.25 + 2.25)/4 = 0.75
    std = 0.75**0.5
    torch.testing.assert_close(advantages(GroupNormalized(), REWARDS), torch.tensor([[0.5, 0.5, 0.5, -1.5]]) / std)
    torch.testing.assert_close(advantages(MeanCentered(), REWARDS), torch.tensor([[0.5, 0.5, 0.5, -1.5]]))
    # the others' mean: (1 + 1 - 1)/3 for the first three, 1 for the last
    torch.testing.assert_close(advantages(LeaveOneOut(), REWARDS), torch.tensor([[2 / 3, 2 / 3, 2 / 3, -2.0]]))


def test_constant_group_is_exactly_zero_where_rounding_is_not():
    rewards = torch.full((1, 7), 0.1)
    assert (rewards - rewards.mean()).any()  # rounding: without care, this difference would be blown up
    for option in (GroupNormalized(epsilon=0.0), MeanCentered(), LeaveOneOut()):
        assert torch.equal(advantages(option, rewards), torch.zeros(1, 7))


def test_groups_do_not_mix_and_order_within_does_not_matter():
    rewards = torch.tensor([[1.0, -1.0, 0.5], [3.0, 0.0, 0.0]])
    for option in (GroupNormalized(), MeanCentered(), LeaveOneOut()):
        both = advantages(option, rewards)
        torch.testing.assert_close(both[1:], advantages(option, rewards[1:]))
        torch.testing.assert_close(advantages(option, rewards.flip(1)), both.flip(1))
