import math

import pytest
import torch
from objectives import assert_is_the_loop, metric, objective_and_gradient, one_token

from dapo_lightning.algorithm.dppo import BinaryKL, TotalVariation

TV, KL = TotalVariation(0.1, 0.15, 20.0), BinaryKL(0.02, 0.03, 20.0)


@pytest.mark.parametrize(
    ("old", "ratio", "advantage", "keeps"),
    [
        (0.5, 1.28, 1.0, True),  # 0.14 more
        (0.5, 1.32, 1.0, False),  # 0.16 more
        (0.5, 1.32, -1.0, True),  # the update goes back
        (0.5, 0.82, -1.0, True),  # 0.09 less
        (0.5, 0.78, -1.0, False),  # 0.11 less
        (0.5, 0.6, 1.0, True),
        (0.001, 19.0, 1.0, True),  # a rare token may become likely
    ],
)
def test_total_variation_by_hand_on_both_sides_of_the_bounds(old, ratio, advantage, keeps):
    tokens = one_token(ratio, advantage, old)
    _, gradient = objective_and_gradient(TV, tokens)
    assert gradient.item() == pytest.approx(ratio * advantage if keeps else 0.0)
    side = "upper" if advantage > 0 else "lower"
    assert metric(TV, tokens, f"clip/{side}_fraction") == float(not keeps)
    assert metric(TV, tokens, "clip/divergence") == pytest.approx(old * abs(ratio - 1))


def test_binary_kl_by_hand():
    # KL((1/2, 1/2) || (3/4, 1/4)) = log(2 / 3) / 2 + log(2) / 2
    expected = (math.log(2 / 3) + math.log(2)) / 2
    assert metric(KL, one_token(1.5, 1.0, 0.5), "clip/divergence") == pytest.approx(expected, abs=1e-7)
    assert objective_and_gradient(KL, one_token(1.5, 1.0, 0.5))[1].item() == 0
    assert objective_and_gradient(KL, one_token(1.5, -1.0, 0.5))[1].item() == pytest.approx(-1.5)


def test_total_variation_is_the_formula_of_verl():
    def loop(logp, old, advantage):
        moved = torch.exp(logp).detach() - torch.exp(old)
        valid = moved <= 0.15 if advantage > 0 else moved >= -0.1
        return advantage * torch.exp(logp - old).clamp(max=1.3).detach() * logp * valid

    assert_is_the_loop(TotalVariation(0.1, 0.15, 1.3), loop)


def test_binary_kl_is_the_formula_of_verl():
    def loop(logp, old, advantage):
        p, q = torch.exp(logp).detach(), torch.exp(old)
        kl = q * (old - logp.detach()) + (1 - q) * torch.log((1 - q + 1e-8) / (1 - p + 1e-8))
        valid = (kl <= 0.03) | (p <= q) if advantage > 0 else (kl <= 0.02) | (p >= q)
        return advantage * torch.exp(logp - old).clamp(max=20).detach() * logp * valid

    assert_is_the_loop(KL, loop)


def test_bad_bounds_are_refused():
    with pytest.raises(ValueError, match=r"clip\.upper=0"):
        TotalVariation(0.1, 0.0, 20.0)
    with pytest.raises(ValueError, match=r"clip\.cap=0\.5"):
        BinaryKL(0.1, 0.1, 0.5)
