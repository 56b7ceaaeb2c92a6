import pytest
import torch
from objectives import assert_is_the_loop, metric, objective_and_gradient, one_token

from dapo_lightning.algorithm.cispo import Cispo


@pytest.mark.parametrize(("ratio", "weight"), [(0.5, 0.8), (1.0, 1.0), (1.5, 1.5), (9.0, 2.0)])
@pytest.mark.parametrize("advantage", [1.5, -1.5])
def test_every_token_keeps_a_gradient_with_a_bounded_weight(ratio, weight, advantage):
    tokens = one_token(ratio, advantage)
    value, gradient = objective_and_gradient(Cispo(0.8, 2.0), tokens)
    assert gradient.item() == pytest.approx(weight * advantage)
    assert value.item() == pytest.approx(weight * advantage * tokens.logps_BT.item())
    assert metric(Cispo(0.8, 2.0), tokens, "clip/upper_fraction") == float(ratio > 2)
    assert metric(Cispo(0.8, 2.0), tokens, "clip/lower_fraction") == float(ratio < 0.8)


def test_it_is_the_formula_of_trl():
    """-min(r, epsilon_high).detach() * A * logp, without a lower bound."""
    assert_is_the_loop(
        Cispo(0.0, 1.3), lambda logp, old, advantage: torch.exp(logp - old).clamp(max=1.3).detach() * advantage * logp
    )
