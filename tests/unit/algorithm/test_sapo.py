import math

import pytest
import torch
from objectives import assert_is_the_loop, metric, objective_and_gradient, one_token

from dapo_lightning.algorithm.sapo import Sapo

SAPO = Sapo(1.0, 1.05)


@pytest.mark.parametrize(("advantage", "tau"), [(2.0, 1.0), (-2.0, 1.05)])
def test_by_hand(advantage, tau):
    # on policy: sigmoid(0) * 4 / tau * A, with the slope of the plain policy gradient
    value, gradient = objective_and_gradient(SAPO, one_token(1.0, advantage))
    assert value.item() == pytest.approx(2 / tau * advantage) and gradient.item() == pytest.approx(advantage)
    value, gradient = objective_and_gradient(SAPO, one_token(3.0, advantage))
    gate = 1 / (1 + math.exp(-2 * tau))
    assert value.item() == pytest.approx(4 / tau * gate * advantage)
    assert gradient.item() == pytest.approx(3.0 * advantage * 4 * gate * (1 - gate))  # never quite 0
    assert metric(SAPO, one_token(3.0, advantage), "clip/slope") == pytest.approx(4 * gate * (1 - gate))


def test_it_is_the_formula_of_trl_and_verl():
    def loop(logp, old, advantage):
        tau = 1.0 if advantage > 0 else 1.05
        return torch.sigmoid(tau * (torch.exp(logp - old) - 1)) * 4 / tau * advantage

    assert_is_the_loop(SAPO, loop)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_must_be_positive(bad):
    with pytest.raises(ValueError, match=r"clip\.temperature_negative"):
        Sapo(1.0, bad)
