import math

import pytest
import torch

from dapo_lightning.algorithm.kl import K1, K2, K3, NoKL
from dapo_lightning.algorithm.tokens import Tokens


def penalty(option, logps, reference):
    mask = torch.ones_like(logps, dtype=torch.bool)
    return option(Tokens(logps, logps, logps, logps, mask, reference_logps_BT=reference)).values_BT


def test_by_hand():
    # d = ref - logp = log 2 and -log 2: 2 - log 2 - 1 and 0.5 + log 2 - 1
    logps = torch.tensor([[-1.0, -1.0]])
    reference = logps + torch.tensor([[math.log(2), -math.log(2)]])
    expected = 0.1 * torch.tensor([[1 - math.log(2), math.log(2) - 0.5]])
    torch.testing.assert_close(penalty(K3(0.1), logps, reference), expected)


def test_is_an_unbiased_estimate_of_kl():
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    expectation = (p * penalty(K3(1.0), p.log(), q.log())).sum()
    torch.testing.assert_close(expectation, (p * (p / q).log()).sum())


def test_k1_and_k2_by_hand():
    """d = ref - logp = -0.5 and 0.25: the estimates are -d and d^2 / 2."""
    logps, reference = torch.tensor([-1.0, -1.0]), torch.tensor([-1.5, -0.75])
    torch.testing.assert_close(K1(0.1).rewards(logps, reference), -0.1 * torch.tensor([0.5, -0.25]))
    torch.testing.assert_close(K2(0.1).rewards(logps, reference), -0.1 * torch.tensor([0.125, 0.03125]))
    torch.testing.assert_close(penalty(K2(0.1), logps[None], reference[None]), 0.1 * torch.tensor([[0.125, 0.03125]]))


def test_the_gradient_of_k2_is_that_of_the_divergence():
    logits = torch.tensor([0.3, -0.2, 0.1], requires_grad=True)
    reference = torch.tensor([0.3, 0.3, 0.4]).log()
    logps = logits.log_softmax(0)
    (logps.exp().detach() * penalty(K2(1.0), logps[None], reference[None])[0]).sum().backward()
    estimated, logits.grad = logits.grad, None
    logps = logits.log_softmax(0)
    (logps.exp() * (logps - reference)).sum().backward()
    torch.testing.assert_close(estimated, logits.grad)


def test_in_the_reward_it_is_no_part_of_the_loss():
    logps, reference = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -0.5]])
    assert not penalty(K3(0.1, place="reward"), logps, reference).any()
    torch.testing.assert_close(K3(0.1, "reward").rewards(logps, reference), -penalty(K3(0.1), logps, reference))


@pytest.mark.parametrize(
    ("option", "place", "says"), [(K1, "loss", "zero on average"), (K3, "both", "kl.place='both'")]
)
def test_places_without_meaning_are_refused(option, place, says):
    with pytest.raises(ValueError, match=says):
        option(0.1, place)


def test_the_coefficient_is_adapted_to_the_target_by_hand():
    """The error is clipped to 0.2, and the rate is 0.1: at most 2 % in a step."""
    option = K3(0.5, target=0.1)
    assert option.adapted({"kl/reference": 0.11}).coefficient == pytest.approx(0.5 * 1.01)
    assert option.adapted({"kl/reference": 9.0}).coefficient == pytest.approx(0.5 * 1.02)
    assert option.adapted({"kl/reference": -9.0}).coefficient == pytest.approx(0.5 * 0.98)
    assert option.adapted({}) == option and K3(0.5).adapted({"kl/reference": 9.0}) == K3(0.5)


def test_none_is_zero_and_needs_no_reference():
    assert not penalty(NoKL(), torch.randn(2, 3), torch.randn(2, 3)).any()
    assert not NoKL.needs_reference and K3.needs_reference


def test_coefficient_must_be_positive():
    with pytest.raises(ValueError, match="kl=none"):
        K3(0.0)


@pytest.mark.parametrize("gap", [90.0, -30.0])
def test_a_token_far_from_the_reference_has_a_finite_gradient_that_leads_back(gap):
    """With d = log pi_ref - log pi, the derivative of exp(d) - d - 1 by log pi is 1 - exp(d), or 0 if clamped."""
    logps = torch.tensor([[-1.0 - gap]], requires_grad=True)
    penalty(K3(1.0), logps, torch.tensor([[-1.0]])).sum().backward()
    assert logps.grad.item() == (1.0 if gap < 0 else 0.0)
