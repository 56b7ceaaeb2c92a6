import pytest
import torch
from conftest import algorithm, make_group, mini_batch

from dapo_lightning.algorithm.advantage import MeanCentered
from dapo_lightning.algorithm.constant import Constant
from dapo_lightning.algorithm.overlong import Filter
from dapo_lightning.distributed.ranks import Ranks

GROUPS = [make_group(0, [1, -1], [2, 9]), make_group(1, [-1, 1], [12, 1], [True, False])]


def test_the_loss_is_that_of_trl_s_dr_grpo():
    """sum of all tokens / (completions * max_completion_length), by hand: (2 - 9 - 12 + 1) / (4 * 20)."""
    rows = mini_batch(GROUPS, algorithm(loss=Constant(20), advantage=MeanCentered())).rows
    total = sum((row.weights * row.advantages).item() * row.trajectory.num_tokens for row in rows)
    assert total == pytest.approx(-18 / 80)


def test_no_length_and_no_mask_changes_the_weight_of_a_token():
    for overlong in ({}, {"overlong": Filter()}):
        rows = mini_batch(GROUPS, algorithm(loss=Constant(20), **overlong)).rows
        assert {row.weights.item() for row in rows} == {torch.tensor(1 / 80).item()}
    shares = [mini_batch(GROUPS, algorithm(loss=Constant(20)), Ranks(rank, 2)).rows for rank in range(2)]
    assert {row.weights.item() for rows in shares for row in rows} == {torch.tensor(1 / 80).item()}


def test_a_constant_below_one_is_refused():
    with pytest.raises(ValueError, match=r"loss\.max_tokens=0"):
        Constant(0)
