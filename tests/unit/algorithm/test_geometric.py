import math

import pytest
import torch
from objectives import objective_and_gradient, random_tokens

from dapo_lightning.algorithm.geometric import GeometricClip
from dapo_lightning.algorithm.tokens import Tokens

BOUNDS = (-0.3, 0.4)  # on the log ratio
GMPO = GeometricClip(*map(math.exp, BOUNDS))


def test_by_hand():
    # A = 2, ratios 4 (bounded by 2) and 1/2: 2 * sqrt(2 * 1/2) = 2; A = -2: 4 stays, 1/2 is bounded by 1: -2 * sqrt(4)
    logps = torch.tensor([[0.8, 0.1, 0.7], [0.8, 0.1, 0.7]]).log()
    old = torch.tensor([[0.2, 0.2, 0.1], [0.2, 0.2, 0.1]]).log()
    mask = torch.tensor([[True, True, False]] * 2)
    tokens = Tokens(logps, old, old, torch.tensor([[2.0], [-2.0]]), mask)
    found = GeometricClip(1.0, 2.0)((logps - old).exp(), tokens)
    torch.testing.assert_close(found.values_BT[:, 0], torch.tensor([2.0, -4.0]))
    assert [found.metrics[f"clip/{side}_fraction"].reduce(mask).value for side in ("upper", "lower")] == [0.25, 0.25]


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_over_tokens_is_the_formula_of_verl(seed):
    tokens = random_tokens(seed)
    values, gradients = objective_and_gradient(GMPO, tokens)
    for b in range(len(values)):
        length, advantage = int(tokens.mask_BT[b].sum()), tokens.advantages_BT[b, 0]
        logps = tokens.logps_BT[b, :length].detach().clone().requires_grad_()
        log_ratio, sign = logps - tokens.old_logps_BT[b, :length], advantage.sign()
        chosen = sign * torch.minimum(sign * log_ratio, sign * log_ratio.clamp(*BOUNDS))
        objective = (chosen.sum() / length).exp() * advantage
        assert values[b].sum().item() / length == pytest.approx(objective.item(), abs=1e-12)
        (slope,) = torch.autograd.grad(objective, logps)
        torch.testing.assert_close(gradients[b, :length] / length, slope, atol=1e-12, rtol=1e-12)


def test_a_ratio_of_zero_has_a_finite_gradient():
    logps = torch.tensor([[-1e4, -1.0]], requires_grad=True)
    tokens = Tokens(logps, torch.zeros(1, 2), logps, torch.ones(1, 1), torch.ones(1, 2, dtype=torch.bool))
    for clip in (GMPO, GeometricClip(0.0, 1.5)):
        value, gradient = objective_and_gradient(clip, tokens)
        assert value.isfinite().all() and gradient.isfinite().all()
