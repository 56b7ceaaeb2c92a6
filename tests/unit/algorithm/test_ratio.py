import math

import pytest
import torch

from dapo_lightning.algorithm.clip import Clip, NoClip
from dapo_lightning.algorithm.ratio import TokenRatio
from dapo_lightning.algorithm.tokens import Tokens


def tokens(logps, old, advantage=1.0):
    return Tokens(logps, old, old, torch.tensor([[advantage]]), torch.ones_like(logps, dtype=torch.bool))


def test_by_hand():
    ratio = TokenRatio()(tokens(torch.tensor([[0.3, 0.2]]).log(), torch.tensor([[0.2, 0.4]]).log()))
    torch.testing.assert_close(ratio, torch.tensor([[1.5, 0.5]]))


@pytest.mark.parametrize("option", [Clip(0.8, 1.28), NoClip()], ids=repr)
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("log_ratio", [89.0, -89.0, 20.5, -20.5])
def test_no_token_has_an_infinite_ratio_or_a_gradient_that_is_not_finite(option, advantage, log_ratio):
    logps = torch.tensor([[-100.0 + log_ratio]], requires_grad=True)
    seen = tokens(logps, torch.tensor([[-100.0]]), advantage)
    ratio = TokenRatio()(seen)
    assert ratio.item() == pytest.approx(math.exp(min(20.0, log_ratio)), rel=1e-4)
    option(ratio, seen).values_BT.sum().backward()
    assert torch.isfinite(logps.grad).all()
