import pytest
import torch

from dapo_lightning.algorithm.clip import Clip, NoClip
from dapo_lightning.algorithm.tokens import Tokens

RATIO = torch.tensor([[0.5, 0.9, 1.1, 1.25, 1.5]])


def tokens(advantage, ratio=RATIO):
    """Tokens of one row with this advantage; their probability is 1/2."""
    logps = torch.full_like(ratio, 0.5).log()
    return Tokens(logps, logps, logps, torch.tensor([[advantage]]), torch.ones_like(ratio, dtype=torch.bool))


def objective(option, ratio, advantage):
    return option(ratio, tokens(advantage, ratio)).values_BT


def reported(option, ratio, advantage, name):
    """The values that the option averages under a metric's name."""
    return option(ratio, tokens(advantage, ratio)).metrics[name].values_BT.bool()


def test_positive_advantage_by_hand():
    # A = 2: min(r*2, clip(r, 0.8, 1.28)*2) = 2*min(r, 1.28); the lower bound never binds
    found = objective(Clip(0.8, 1.28), RATIO, 2.0)
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.8, 2.2, 2.5, 2.56]]))


def test_negative_advantage_by_hand():
    # A = -2: min(-2r, -2*clip(r)) = -2*max(r, 0.8); the upper bound never binds
    found = objective(Clip(0.8, 1.28), RATIO, -2.0)
    torch.testing.assert_close(found, torch.tensor([[-1.6, -1.8, -2.2, -2.5, -3.0]]))


def test_clip_higher_lets_through_what_symmetric_clips():
    ratio = torch.tensor([[1.25]], requires_grad=True)
    objective(Clip(0.8, 1.28), ratio, 1.0).sum().backward()
    assert ratio.grad.item() == 1.0
    ratio.grad = None
    objective(Clip(0.8, 1.2), ratio, 1.0).sum().backward()
    assert ratio.grad.item() == 0.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_reported_as_clipped_is_where_the_gradient_is_gone(advantage):
    ratio = RATIO.clone().requires_grad_()
    clip = Clip(0.8, 1.28)
    objective(clip, ratio, advantage).sum().backward()
    clipped = reported(clip, RATIO, advantage, "clip/upper_fraction")
    clipped = clipped | reported(clip, RATIO, advantage, "clip/lower_fraction")
    if advantage:
        assert torch.equal(clipped, ratio.grad == 0)
    else:  # zero advantage: no gradient anywhere, but nothing was clipped
        assert not clipped.any() and not ratio.grad.any()


def test_no_clip_is_ratio_times_advantage():
    torch.testing.assert_close(objective(NoClip(), RATIO, -2.0), -2 * RATIO)
    assert not reported(NoClip(), RATIO, 1.0, "clip/upper_fraction").any()


def test_the_probability_of_clipped_tokens_is_a_mean_over_those_alone():
    mask = torch.ones_like(RATIO, dtype=torch.bool)
    metric = Clip(0.8, 1.28)(RATIO, tokens(1.0)).metrics["clip/upper_probability"].reduce(mask)
    assert (metric.total, metric.count, metric.value) == (0.5, 1.0, 0.5)
    assert Clip(0.8, 1.28)(RATIO, tokens(-1.0)).metrics["clip/upper_probability"].reduce(mask).value is None


@pytest.mark.parametrize(
    ("lower", "upper", "remedy"),
    [
        (0.8, 0.28, "clip.upper=1.28"),
        (0.2, 1.28, "clip.lower=0.8"),
        (1.1, 1.28, "clip.lower"),
        (-0.1, 1.2, "clip.lower"),
    ],
)
def test_bounds_that_look_like_epsilons_are_refused_with_the_likely_meaning(lower, upper, remedy):
    with pytest.raises(ValueError, match=remedy):
        Clip(lower, upper)
