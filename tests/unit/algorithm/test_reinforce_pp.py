import math

import pytest
import torch
from conftest import make_group

from dapo_lightning.algorithm.reinforce_pp import ReinforcePP, ReinforcePPBaseline, over_tokens

GROUPS = [make_group(0, [1, -1], [1, 3]), make_group(1, [1, 1], [2, 2])]
REWARDS = torch.stack([group.scores_G() for group in GROUPS])


def test_by_hand():
    # tokens: 1, three times -1, four times 1: mean 1/4, variance (5 * (3/4)^2 + 3 * (5/4)^2) / 8 = 15/16
    std = math.sqrt(15 / 16)
    expected = torch.tensor([[0.75 / std, -1.25 / std], [0.75 / std, 0.75 / std]])[..., None]
    torch.testing.assert_close(ReinforcePP()(REWARDS, GROUPS), expected)


def test_with_a_baseline_by_hand():
    # tokens: 1, three times -1, four times 0: mean -1/4, variance (25/16 + 3 * 9/16 + 4/16) / 8 = 7/16
    std = math.sqrt(7 / 16)
    expected = torch.tensor([[1.25 / std, -0.75 / std], [0.25 / std, 0.25 / std]])[..., None]
    torch.testing.assert_close(ReinforcePPBaseline()(REWARDS, GROUPS), expected)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_formula_of_openrlhf_over_all_tokens(seed):
    """(x - mean) * rsqrt(var.clamp(1e-8)), with masked sums over every token of the batch."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(4, 3, generator=generator).tolist()
    groups = [
        make_group(i, row, torch.randint(1, 9, (3,), generator=generator).tolist()) for i, row in enumerate(scores)
    ]
    rewards = torch.stack([group.scores_G() for group in groups])
    tokens = [r.item() for row, g in zip(rewards, groups, strict=True)
              for r, n in zip(row, g.lengths_G().tolist(), strict=True) for _ in range(n)]  # fmt: skip
    mean = math.fsum(tokens) / len(tokens)
    variance = math.fsum((x - mean) ** 2 for x in tokens) / len(tokens)
    torch.testing.assert_close(ReinforcePP()(rewards, groups)[..., 0], (rewards - mean) / math.sqrt(variance))


def test_equal_values_give_exactly_zero():
    assert not over_tokens(torch.full((2, 2), 0.1), GROUPS).any()
