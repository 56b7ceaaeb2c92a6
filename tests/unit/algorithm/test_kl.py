import math

import pytest
import torch

from dapo_lightning.algorithm.kl import K3, NoKL
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
