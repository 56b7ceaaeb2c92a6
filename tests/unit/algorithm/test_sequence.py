import math

import pytest
import torch
from conftest import algorithm, make_group, mini_batch, tiny
from losses import gradient, on_policy
from objectives import objective_and_gradient, random_tokens

from dapo_lightning.algorithm.clip import Clip
from dapo_lightning.algorithm.loss import SampleLevel
from dapo_lightning.algorithm.sequence import SequenceRatio, SequenceTokenRatio
from dapo_lightning.algorithm.tokens import Tokens

BOUNDS = Clip(0.9997, 1.0004)
RATIOS = [SequenceRatio(), SequenceTokenRatio()]


@pytest.mark.parametrize("option", RATIOS, ids=repr)
def test_by_hand(option):
    # ratios 2 and 1/8 of two tokens, and a third one outside the loss: sqrt(2 / 8) = 1/2 for all of them
    logps = torch.tensor([[0.5, 0.1, 0.9]]).log()
    old = torch.tensor([[0.25, 0.8, 0.01]]).log()
    tokens = Tokens(logps, old, old, torch.ones(1, 1), torch.tensor([[True, True, False]]))
    torch.testing.assert_close(option(tokens)[0, :2], torch.tensor([0.5, 0.5]))


def slow(tokens, b):
    """The objective of GSPO for one completion (Eq. 5 and 7), and its log-probs."""
    length = int(tokens.mask_BT[b].sum())
    logps = tokens.logps_BT[b, :length].detach().clone().requires_grad_()
    ratio = (sum(logps[t] - tokens.old_logps_BT[b, t] for t in range(length)) / length).exp()
    advantage = tokens.advantages_BT[b, 0]
    return torch.minimum(ratio * advantage, ratio.clamp(BOUNDS.lower, BOUNDS.upper) * advantage), logps, length


@pytest.mark.parametrize("option", RATIOS, ids=repr)
@pytest.mark.parametrize("spread", [0.6, 0.0005])
def test_the_mean_over_tokens_is_the_slow_obvious_loop(option, spread):
    """The two ratios have the same gradient, as advantages do not differ between tokens."""
    for seed in range(5):
        tokens = random_tokens(seed, spread)
        values, gradients = objective_and_gradient(BOUNDS, tokens, option)
        for b in range(len(values)):
            expected, logps, length = slow(tokens, b)
            assert values[b].sum().item() / length == pytest.approx(expected.item(), abs=1e-12)
            (slope,) = torch.autograd.grad(expected, logps)
            torch.testing.assert_close(gradients[b, :length] / length, slope, atol=1e-12, rtol=1e-12)


def test_a_completion_is_clipped_as_a_whole():
    tokens = random_tokens(1)
    _, gradients = objective_and_gradient(BOUNDS, tokens, SequenceRatio())
    for b, row in enumerate(gradients):
        inside = row[tokens.mask_BT[b]]
        assert (inside == 0).all() or (inside != 0).all()


def test_a_ratio_that_would_overflow_is_finite_with_its_gradient():
    logps = torch.full((1, 2), -1.0, requires_grad=True)
    tokens = Tokens(logps, torch.full((1, 2), -900.0), logps, torch.ones(1, 1), torch.ones(1, 2, dtype=torch.bool))
    for option in RATIOS:
        (slope,) = torch.autograd.grad(option(tokens).sum(), logps)
        assert option(tokens).isfinite().all() and slope.isfinite().all()


@pytest.mark.parametrize("option", RATIOS, ids=repr)
def test_gspo_does_not_depend_on_micro_batches(option):
    options = algorithm(ratio=option, clip=Clip(0.5, 2.0), loss=SampleLevel())
    rows = on_policy(mini_batch([make_group(0, [1, -1, 1], [2, 9, 4]), make_group(1, [1, -1, -1])], options).rows)
    model = tiny(seed=1).model
    whole, loss, _ = gradient(model, rows, options)
    cut, cut_loss, _ = gradient(model, rows, options, 15)
    assert cut_loss == pytest.approx(loss, rel=1e-4) and math.isfinite(loss)
    torch.testing.assert_close(cut, whole, atol=1e-5 * whole.abs().max().item(), rtol=0)
