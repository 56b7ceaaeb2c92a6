import pytest
import torch
from objectives import random_tokens

from dapo_lightning.algorithm.entropy import NoEntropy
from dapo_lightning.algorithm.entropy_bonus import EntropyBonus


def test_by_hand_with_its_gradient():
    tokens = random_tokens()
    objective = torch.ones_like(tokens.old_logps_BT)
    found = EntropyBonus(0.3)(objective, tokens)
    torch.testing.assert_close(found.values_BT, 1 + 0.3 * tokens.entropies_BT)
    (slope,) = torch.autograd.grad(found.values_BT.sum(), tokens.entropies_BT)
    assert (slope == 0.3).all()
    mean = tokens.entropies_BT[tokens.mask_BT].mean().item()
    assert found.metrics["entropy/trained"].reduce(tokens.mask_BT).value == pytest.approx(mean)


def test_none_changes_nothing():
    objective = torch.randn(2, 3)
    found = NoEntropy()(objective, None)
    assert found.values_BT is objective and not found.metrics


@pytest.mark.parametrize("coefficient", [0.0, -1.0, float("inf"), float("nan")])
def test_a_coefficient_that_is_not_positive_is_refused(coefficient):
    with pytest.raises(ValueError, match=r"entropy\.coefficient=.*entropy=none"):
        EntropyBonus(coefficient)
