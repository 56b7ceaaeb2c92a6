import pytest
import torch

from dapo_lightning.algorithm.loss import Blend, SampleLevel, TokenLevel, TokenLevelPerPrompt, weighted_sum
from dapo_lightning.algorithm.tokens import CountedTokens

# Two prompts with two completions each; objectives are constant within a completion.
LENGTHS = torch.tensor([1, 3, 2, 2])
GROUPS = torch.tensor([0, 0, 1, 1])
MASK = torch.arange(3)[None] < LENGTHS[:, None]


def counted(lengths, groups):
    mask = torch.arange(3)[None] < lengths[:, None]
    return CountedTokens(mask, groups, trajectories=())


OBJECTIVE = torch.tensor([4.0, 2.0, -1.0, 3.0])[:, None].expand(4, 3)

BY_HAND = {
    # sum over tokens = 1*4 + 3*2 + 2*(-1) + 2*3 = 14, over 8 tokens
    TokenLevel(): 14 / 8,
    # prompt 0: (4 + 6)/4 = 2.5; prompt 1: (-2 + 6)/4 = 1; mean 1.75
    TokenLevelPerPrompt(): (10 / 4 + 4 / 4) / 2,
    # means over tokens are 4, 2, -1, 3; mean 2
    SampleLevel(): 8 / 4,
    # a quarter of the way from 2 to 1.75
    Blend(0.25): 0.75 * 2 + 0.25 * 1.75,
    Blend(0.0): 2.0,
    Blend(1.0): 1.75,
}


@pytest.mark.parametrize("loss", BY_HAND, ids=repr)
def test_by_hand(loss):
    weights = loss.weights(counted(LENGTHS, GROUPS))
    assert weighted_sum(OBJECTIVE, MASK, weights).item() == pytest.approx(-BY_HAND[loss])


@pytest.mark.parametrize("loss", BY_HAND, ids=repr)
def test_masked_completion_leaves_loss_and_denominator(loss):
    with_masked = loss.weights(counted(torch.tensor([1, 3, 2, 2, 0]), torch.tensor([0, 0, 1, 1, 1])))
    torch.testing.assert_close(with_masked[:4], loss.weights(counted(LENGTHS, GROUPS)))
    assert with_masked[4] == 0


@pytest.mark.parametrize("loss", BY_HAND, ids=repr)
def test_all_masked_is_exactly_zero(loss):
    weights = loss.weights(counted(torch.zeros(4, dtype=torch.long), GROUPS))
    assert weighted_sum(OBJECTIVE, torch.zeros_like(MASK), weights).item() == 0.0


@pytest.mark.parametrize("loss", BY_HAND, ids=repr)
def test_every_mean_of_ones_is_one_and_order_does_not_matter(loss):
    weights = loss.weights(counted(LENGTHS, GROUPS))
    assert (weights[:, 0] * LENGTHS).sum().item() == pytest.approx(1.0)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(loss.weights(counted(LENGTHS[order], GROUPS[order] + 7)), weights[order])


def test_masked_tokens_cannot_matter_even_if_not_a_number():
    objective = OBJECTIVE.clone()
    objective[0, 1:] = float("nan")
    weights = TokenLevel().weights(counted(LENGTHS, GROUPS))
    assert weighted_sum(objective, MASK, weights).item() == pytest.approx(-14 / 8)


def test_blend_refuses_weights_outside_0_1():
    with pytest.raises(ValueError, match=r"loss\.token_weight"):
        Blend(1.5)


def test_weights_of_single_tokens():
    """The same sum, token by token: what an option with weights of its own for each token gets."""
    weights = SampleLevel().weights(counted(LENGTHS, GROUPS))
    torch.testing.assert_close(
        weighted_sum(OBJECTIVE, MASK, weights.expand(4, 3).contiguous()), weighted_sum(OBJECTIVE, MASK, weights)
    )
