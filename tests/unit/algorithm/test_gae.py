from dataclasses import replace

import pytest
import torch
from conftest import make_group

from dapo_lightning.algorithm.gae import GAE, gae
from dapo_lightning.algorithm.whitening import whitened


def valued(group, values, token_rewards=None):
    """The group with given values and rewards of tokens."""
    rewards = token_rewards or [None] * group.size
    return replace(
        group,
        trajectories=tuple(
            replace(t, values_T=torch.tensor(v), token_rewards_T=None if r is None else torch.tensor(r))
            for t, v, r in zip(group.trajectories, values, rewards, strict=True)
        ),
    )


@pytest.mark.parametrize("truncated", [False, True])
def test_three_tokens_by_hand(truncated):
    """A truncated completion is treated like a finished one: nothing follows its last token.

    delta = (0.9 * 0.25 - 0.5, 0.9 * -0.5 - 0.25, 1 + 0.5) = (-0.275, -0.7, 1.5), and gamma * lam = 0.45.
    """
    group = valued(make_group(0, [1.0], [3], [truncated]), [[0.5, 0.25, -0.5]])
    option = GAE(gamma=0.9, lam=0.5, whiten=False)
    advantages = torch.tensor([-0.275 + 0.45 * (-0.7 + 0.45 * 1.5), -0.7 + 0.45 * 1.5, 1.5])
    torch.testing.assert_close(option(torch.tensor([[1.0]]), [group])[0, 0], advantages)
    returns = option.returns(torch.tensor([[1.0]]), [group])[0, 0]
    torch.testing.assert_close(returns, advantages + torch.tensor([0.5, 0.25, -0.5]))


def test_rewards_of_tokens_come_on_top_of_the_reward_at_the_last_token():
    """With lam = gamma = 1, the advantage is the sum of the rewards that follow, minus the value."""
    group = valued(make_group(0, [2.0], [3]), [[0.5, 0.25, -0.5]], [[-0.1, -0.2, -0.4]])
    found = GAE(lam=1.0, whiten=False)(torch.tensor([[2.0]]), [group])[0, 0]
    torch.testing.assert_close(found, torch.tensor([2 - 0.7 - 0.5, 2 - 0.6 - 0.25, 2 - 0.4 + 0.5]))


def test_equals_the_slow_obvious_loop():
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 6, 9, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 9, generator=generator) < 0.7
    lam = torch.rand(6, generator=generator, dtype=torch.float64)
    found = gae(rewards.where(mask, 0.0), values, mask, 0.97, lam)
    for b in range(6):
        own = mask[b].nonzero().flatten().tolist()  # tokens of an environment are skipped
        for i, t in enumerate(own):
            total = 0.0
            for j in range(i, len(own)):
                after = values[b, own[j + 1]] if j + 1 < len(own) else 0.0
                delta = rewards[b, own[j]] + 0.97 * after - values[b, own[j]]
                total += (0.97 * lam[b]) ** (j - i) * delta
            assert abs(found[b, t] - total) < 1e-12
    assert not found[~mask].any()


def test_whitening_counts_all_tokens_of_the_rollout_and_leaves_constants_at_zero():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = whitened(torch.tensor([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]]), mask)
    torch.testing.assert_close(found, torch.tensor([[-(1.5**0.5), 0.0, 0.0], [1.5**0.5, 0.0, 0.0]]))
    assert not whitened(torch.full((2, 3), 0.1), mask).any()


def test_the_critic_learns_with_a_lambda_of_its_own():
    group = valued(make_group(0, [1.0], [3]), [[0.5, 0.25, -0.5]])
    rewards = torch.tensor([[1.0]])
    one, two = GAE(lam=0.5, critic_lam=1.0), GAE(lam=0.5)
    torch.testing.assert_close(one.returns(rewards, [group]), torch.ones(1, 1, 3))
    assert torch.equal(one(rewards, [group]), two(rewards, [group]))


def test_lambda_depends_on_the_length():
    """alpha = 0.5: lambda is 0 up to two tokens, 1 - 1 / (0.5 * 4) = 1/2 with four."""
    groups = [valued(make_group(0, [1.0, 1.0], [2, 4]), [[0.0] * 2, [0.0] * 4])]
    found = GAE(lam=None, alpha=0.5, whiten=False)(torch.ones(1, 2), groups)
    assert found.tolist() == [[[0.0, 1.0, 0.0, 0.0], [0.125, 0.25, 0.5, 1.0]]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gamma": 1.1}, "advantage.gamma=1.1"),
        ({"critic_lam": -0.1}, "advantage.critic_lam=-0.1"),
        ({"alpha": 0.05}, "set one of them"),
        ({"lam": None}, "set one of them"),
        ({"lam": None, "alpha": 0.0}, "advantage.alpha=0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        GAE(**options)


def test_without_values_the_remedy_is_named():
    with pytest.raises(ValueError, match="critic=value_model"):
        GAE()(torch.ones(1, 2), [make_group(0, [1.0, 1.0])])
