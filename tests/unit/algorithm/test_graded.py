from dataclasses import replace

import pytest
import torch
from conftest import algorithm, make_group, mini_batch
from draws import draws, in_batches, step

from dapo_lightning.algorithm.graded import KeepRange, KeepSpread
from dapo_lightning.algorithm.overlong import Punish
from dapo_lightning.algorithm.sampling import Dynamic

DYNAMIC = {"max_rounds": 6, "at_cap": "train_partial"}


def graded(number, scores, correct_from=1.0):
    group = make_group(number, scores)
    return replace(group, grades=tuple(replace(g, correct=g.score >= correct_from) for g in group.grades))


@pytest.mark.parametrize(
    ("scores", "min_std", "keep", "reason"),
    [
        ([0.0, 0.5, 0.5, 0.0], 0.0, True, "useful"),  # nobody is right, but some are better
        ([0.0, 0.5, 0.5, 0.0], 0.25, False, "all_wrong"),  # std is exactly 1/4
        ([0.0, 0.5, 0.5, 0.0], 0.24, True, "useful"),
        ([0.1] * 3, 0.0, False, "all_wrong"),
        ([1.0] * 3, 0.0, False, "all_correct"),
        ([1.0, 0.9, 1.0], 0.1, False, "no_spread"),
    ],
)
def test_spread(scores, min_std, keep, reason):
    verdict = KeepSpread(**DYNAMIC, min_std=min_std).verdict(graded(0, scores))
    assert (verdict.keep, verdict.reason) == (keep, reason)


@pytest.mark.parametrize(
    ("scores", "keep", "reason"),
    [
        ([0.0, 0.5], True, "useful"),
        ([0.0, 0.4], False, "all_wrong"),  # mean 0.2 is not above 0.2
        ([1.0, 0.8], False, "out_of_range"),
        ([0.5, 0.5], False, "all_wrong"),  # between the bounds, but without a difference to learn from
    ],
)
def test_range(scores, keep, reason):
    verdict = KeepRange(**DYNAMIC, lower=0.2, upper=0.8).verdict(graded(0, scores))
    assert (verdict.keep, verdict.reason) == (keep, reason)


def test_with_two_scores_spread_is_dynamic_sampling():
    for scores in ([1, -1, 1], [1, 1, 1], [-1, -1, -1], [-1, 1, -1]):
        assert KeepSpread(**DYNAMIC).verdict(make_group(0, scores)) == Dynamic(**DYNAMIC).verdict(make_group(0, scores))


def test_the_shaped_reward_has_no_influence():
    """A length penalty gives this group a variance, but not its scores."""
    group = graded(0, [0.3] * 3)
    group = replace(group, trajectories=make_group(0, [1, 1, 1], [2, 9, 12]).trajectories)
    assert mini_batch([group], algorithm(overlong=Punish(12, 6))).rows[0].advantages.item() != 0
    for option in (KeepSpread(**DYNAMIC), KeepRange(**DYNAMIC)):
        assert not option.verdict(group).keep


def test_a_batch_is_filled_with_groups_that_have_partial_scores():
    def generate(share):
        return in_batches([graded(n.number, [0.0, 0.5] if n.number % 3 else [0.2, 0.2]) for n in share])

    batch = step(draws(4), generate, KeepSpread(**DYNAMIC))
    assert len(batch.groups) == 4 and all(torch.tensor(g.scores_G()).std() > 0 for g in batch.groups)
    assert step(draws(4), generate, Dynamic(**DYNAMIC)).groups == ()


@pytest.mark.parametrize(
    "make", [lambda: KeepSpread(**DYNAMIC, min_std=-1), lambda: KeepRange(**DYNAMIC, lower=1, upper=0)]
)
def test_bad_numbers_are_refused(make):
    with pytest.raises(ValueError, match=r"sampling\.(min_std=-1|lower=1)"):
        make()
