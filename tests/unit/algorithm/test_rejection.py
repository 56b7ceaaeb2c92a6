import math

import pytest
import torch
from objectives import random_tokens
from runs import SMALL, config

from dapo_lightning.algorithm.correction import Truncated
from dapo_lightning.algorithm.rejection import NoRejection, RejectSequences, RejectTokens
from dapo_lightning.algorithm.tokens import Tokens
from dapo_lightning.run.build import build
from dapo_lightning.run.errors import ConfigError

RATIOS = torch.tensor([[0.4, 0.5, 1.0, 5.0, 5.1], [0.25, 2.0, 2.0, 9.0, 9.0]])
MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])


def tokens(ratios=RATIOS, mask=MASK):
    old = torch.full_like(ratios, math.log(0.05))
    return Tokens(old, old, old - ratios.log(), torch.ones(len(ratios), 1), mask)


def test_tokens_by_hand_on_both_sides_of_the_bounds():
    found = RejectTokens(0.45, 5.05)(tokens())
    assert found.values_BT[0].tolist() == [0, 1, 1, 1, 0]
    assert found.metrics["rejection/fraction"].reduce(MASK).value == pytest.approx(3 / 8)
    masked = RejectTokens(0.0, 2.0)(tokens()).values_BT  # MIS: no lower bound
    assert masked[0].tolist() == [1, 1, 1, 0, 0]


def test_icepop_is_both_switches_together():
    """k * [alpha <= k <= beta] with k = pi_train / pi_infer."""
    given = random_tokens(2)
    ratio = (given.old_logps_BT - given.sampled_logps_BT).exp()
    ours = Truncated(math.inf)(given).values_BT * RejectTokens(0.8, 1.3)(given).values_BT
    torch.testing.assert_close(ours, torch.where((ratio >= 0.8) & (ratio <= 1.3), ratio, 0.0))


def test_sequences_by_hand():
    # geometric means: (0.4 * 0.5 * 1 * 5 * 5.1) ^ (1/5) = 5.1 ^ (1/5) = 1.385, and (0.25 * 2 * 2) ^ (1/3) = 1
    found = RejectSequences(0.9, 1.1)(tokens())
    assert found.values_BT.tolist() == [[0.0] * 5, [1.0] * 5]
    assert found.metrics["rejection/fraction"].reduce(MASK).value == pytest.approx(5 / 8)
    assert RejectSequences(0.9, 1.4)(tokens()).values_BT.min() == 1


def test_sampler_and_trainer_that_agree_lose_nothing_and_no_gradient_flows():
    given = tokens(torch.ones(2, 5))
    for option in (NoRejection(), RejectTokens(0.999, 1.001), RejectSequences(0.999, 1.001)):
        assert (option(given).values_BT == 1).all()
        assert not option(random_tokens()).values_BT.requires_grad


@pytest.mark.parametrize(("lower", "upper"), [(1.1, 2.0), (0.5, 0.9), (-0.1, 2.0), (math.nan, 2.0)])
def test_bounds_that_do_not_enclose_one_are_refused(lower, upper):
    for option in (RejectTokens, RejectSequences):
        with pytest.raises(ValueError, match=r"rejection\.lower=.*must enclose 1"):
            option(lower, upper)


def test_refused_where_there_is_nothing_to_reject(tmp_path):
    with pytest.raises(ConfigError, match=r"rejection has nothing to correct.*bf16-mixed or rollout=vllm"):
        build(config(*SMALL, "rejection=tokens", f"run_folder={tmp_path}"))
