import pytest
import torch
from objectives import assert_is_the_loop, metric, objective_and_gradient, one_token

from dapo_lightning.algorithm.clip import Clip
from dapo_lightning.algorithm.dual import DualClip


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (0.5, -1.0, -0.8, 0.0),  # removed by the lower bound
        (2.9, -1.0, -2.9, -1.0),
        (3.1, -1.0, -3.0, 0.0),  # removed by the third bound
        (3.1, 2.0, 2.56, 0.0),  # by the upper bound, as before
        (1.1, 2.0, 2.2, 2.0),
    ],
)
def test_by_hand_on_both_sides_of_each_bound(ratio, advantage, value, slope):
    tokens = one_token(ratio, advantage)
    found, gradient = objective_and_gradient(DualClip(0.8, 1.28, bound=3.0), tokens)
    assert found.item() == pytest.approx(value) and gradient.item() == pytest.approx(slope * ratio)
    assert metric(DualClip(0.8, 1.28, 3.0), tokens, "clip/dual_fraction") == float(ratio > 3 and advantage < 0)


def test_it_is_the_formula_of_verl():
    """min(-c A, max(-r A, -clip(r) A)) where A < 0, as a loss."""

    def loop(logp, old, advantage):
        ratio = torch.exp(logp - old)
        loss = torch.maximum(-ratio * advantage, -ratio.clamp(0.8, 1.2) * advantage)
        return -(torch.minimum(loss, -1.5 * advantage) if advantage < 0 else loss)

    assert_is_the_loop(DualClip(0.8, 1.2, bound=1.5), loop)


def test_a_bound_that_no_ratio_reaches_is_the_clip():
    def clip(logp, old, advantage):
        ratio = torch.exp(logp - old)
        return torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)

    assert_is_the_loop(DualClip(0.8, 1.2, bound=1e9), clip)
    assert_is_the_loop(Clip(0.8, 1.2), clip)


@pytest.mark.parametrize("bound", [1.0, 0.5, float("nan")])
def test_a_bound_that_would_clip_everything_is_refused(bound):
    with pytest.raises(ValueError, match=r"clip\.bound="):
        DualClip(0.8, 1.28, bound=bound)
