import pytest
import torch

from dapo_lightning.algorithm.clip import Clip, NoClip

RATIO = torch.tensor([[0.5, 0.9, 1.1, 1.25, 1.5]])


def test_positive_advantage_by_hand():
    # A = 2: min(r*2, clip(r, 0.8, 1.28)*2) = 2*min(r, 1.28); the lower bound never binds
    objective = Clip(0.8, 1.28).objective(RATIO, torch.tensor([2.0]))
    torch.testing.assert_close(objective, torch.tensor([[1.0, 1.8, 2.2, 2.5, 2.56]]))


def test_negative_advantage_by_hand():
    # A = -2: min(-2r, -2*clip(r)) = -2*max(r, 0.8); the upper bound never binds
    objective = Clip(0.8, 1.28).objective(RATIO, torch.tensor([-2.0]))
    torch.testing.assert_close(objective, torch.tensor([[-1.6, -1.8, -2.2, -2.5, -3.0]]))


def test_clip_higher_lets_through_what_symmetric_clips():
    ratio = torch.tensor([[1.25]], requires_grad=True)
    Clip(0.8, 1.28).objective(ratio, torch.tensor([1.0])).sum().backward()
    assert ratio.grad.item() == 1.0
    ratio.grad = None
    Clip(0.8, 1.2).objective(ratio, torch.tensor([1.0])).sum().backward()
    assert ratio.grad.item() == 0.0


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_reported_as_clipped_is_where_the_gradient_is_gone(advantage):
    ratio = RATIO.clone().requires_grad_()
    advantages = torch.tensor([advantage])
    clip = Clip(0.8, 1.28)
    clip.objective(ratio, advantages).sum().backward()
    reported = clip.clipped_above(RATIO, advantages) | clip.clipped_below(RATIO, advantages)
    if advantage:
        assert torch.equal(reported, ratio.grad == 0)
    else:  # zero advantage: no gradient anywhere, but nothing was clipped
        assert not reported.any() and not ratio.grad.any()


def test_no_clip_is_ratio_times_advantage():
    torch.testing.assert_close(NoClip().objective(RATIO, torch.tensor([-2.0])), -2 * RATIO)
    assert not NoClip().clipped_above(RATIO, torch.tensor([1.0])).any()


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
