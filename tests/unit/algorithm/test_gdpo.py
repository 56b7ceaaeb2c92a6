from dataclasses import replace

import pytest
import torch
from conftest import make_group

from dapo_lightning.algorithm.advantage import GroupNormalized
from dapo_lightning.algorithm.gdpo import Gdpo


def group(number, right, form, lengths, weights):
    parts = [{"right": r, "form": f} for r, f in zip(right, form, strict=True)]
    scores = [sum(weights[name] * part[name] for name in part) for part in parts]
    made = make_group(number, scores, lengths)
    return replace(made, grades=tuple(replace(g, parts=p) for g, p in zip(made.grades, parts, strict=True)))


ONES = {"right": 1.0, "form": 1.0}


def rewards_of(groups):
    return torch.stack([made.scores_G() for made in groups])


def test_by_hand():
    # right: 1, 0, 0, 1 -> 1, -1, -1, 1; form: 1, 1, 0, 0 -> 1, 1, -1, -1; sum 2, 0, -2, 0: mean 0, variance 2
    groups = [group(0, [1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0], [3, 3, 3, 3], ONES)]
    found = Gdpo(ONES)(rewards_of(groups), groups)[0, :, 0]
    torch.testing.assert_close(found, torch.tensor([2.0, 0.0, -2.0, 0.0]) / 2**0.5, atol=1e-5, rtol=0)


def test_parts_of_another_size_count_alike_unless_they_are_weighted():
    """A sum that is normalised as one follows the larger part; here, the size of a part does not matter."""
    weights = {"right": 1.0, "form": 3.0}
    small = [group(0, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [2, 5, 1], weights)]
    large = [group(0, [10.0, 0.0, 0.0], [0.0, 1.0, 0.0], [2, 5, 1], weights)]
    ours = [Gdpo(weights)(rewards_of(groups), groups) for groups in (small, large)]
    torch.testing.assert_close(ours[0], ours[1], atol=1e-5, rtol=0)
    theirs = [GroupNormalized()(rewards_of(groups), groups) for groups in (small, large)]
    assert (theirs[0] - theirs[1]).abs().max() > 0.5
    assert ours[0][0, 1] > ours[0][0, 0]


def test_the_overlong_penalty_is_one_more_part():
    groups = [group(0, [1.0, 1.0, 0.0], [0.1, 0.1, 0.1], [4, 4, 4], ONES)]
    even = Gdpo(ONES)(rewards_of(groups) - 0.3, groups)[0, :, 0]
    torch.testing.assert_close(even, Gdpo(ONES)(rewards_of(groups), groups)[0, :, 0])  # the same for all: no part in it
    longer = Gdpo(ONES)(rewards_of(groups) + torch.tensor([[0.0, -0.5, 0.0]]), groups)[0, :, 0]
    assert longer[0] > longer[1]


def test_what_an_environment_adds_to_the_score_is_one_more_part():
    (plain,) = [group(0, [1.0, 1.0, 0.0], [0.5, 0.5, 0.0], [4, 4, 4], ONES)]
    spoilt = tuple(replace(g, score=g.score - (1.0 if i == 1 else 0.0)) for i, g in enumerate(plain.grades))
    changed = [replace(plain, grades=spoilt)]
    found = Gdpo(ONES)(rewards_of(changed), changed)[0, :, 0]
    assert found[0] > found[1]  # without it, they are alike


@pytest.mark.parametrize("weights", [None, {}])
def test_a_reward_without_parts_is_refused_at_the_start(weights):
    with pytest.raises(ValueError, match=r"advantage=gdpo .*reward=weighted"):
        Gdpo(weights)
