import pytest
import torch
from conftest import algorithm, make_group, mini_batch, tiny
from losses import on_policy
from objectives import marked, metric, objective_and_gradient, random_tokens

from dapo_lightning.algorithm.clip import Clip
from dapo_lightning.algorithm.clip_cov import ClipCov, covariances
from dapo_lightning.algorithm.tokens import AllTokens
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.step.host import PolicyHost


def whole(logps, advantages, old=None):
    logps = torch.tensor(logps)
    old = logps if old is None else torch.tensor(old)
    return AllTokens(torch.arange(len(logps)), logps, old, torch.zeros_like(logps), torch.tensor(advantages))


def test_covariances_by_hand():
    # means -2 and 1/2
    found = covariances(whole([-1.0, -3.0, -1.0, -3.0], [2.0, -1.0, 0.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([1.5, 1.5, -0.5, -0.5]))


def test_only_tokens_between_the_bounds_are_left_out_and_not_those_that_are_clipped_already():
    option = ClipCov(0.8, 1.2, share=1.0, lower_covariance=1.0, upper_covariance=5.0)
    tokens = whole([-1.0, -3.0, -1.0, -3.0], [2.0, -1.0, 0.0, 1.0])
    assert option.marks(tokens)["clip/covariance"].tolist() == [True, True, False, False]
    tokens = whole([-1.0, -3.0, -1.0, -3.0], [2.0, -1.0, 0.0, 1.0], old=[-2.0, -3.0, -1.0, -3.0])
    assert option.marks(tokens)["clip/covariance"].tolist() == [False, True, False, False]
    narrow = ClipCov(0.8, 1.2, share=1.0, lower_covariance=1.0, upper_covariance=1.5)
    assert not narrow.marks(tokens)["clip/covariance"].any()


def test_the_share_counts_all_tokens_and_at_least_one():
    tokens = whole([-1.0, -3.0] * 500, [2.0, -1.0] * 500)
    for share, expected in ((0.0002, 1), (0.0029, 2), (0.1, 100)):
        marks = ClipCov(0.8, 1.2, share=share).marks(tokens)["clip/covariance"]
        assert marks.sum() == expected
        assert torch.equal(marks, ClipCov(0.8, 1.2, share=share).marks(tokens)["clip/covariance"])


def test_the_others_are_clipped_as_before_and_these_have_no_gradient():
    option = ClipCov(0.8, 1.2, share=0.2, lower_covariance=0.0)
    for seed in range(5):
        tokens = random_tokens(seed, rows=9)
        left_out = marked(option, tokens).marks["clip/covariance"]
        ours, theirs = objective_and_gradient(option, tokens), objective_and_gradient(Clip(0.8, 1.2), tokens)
        assert left_out.any() and not ours[1][left_out].any()
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other.masked_fill(left_out, 0.0))
        assert metric(option, tokens, "clip/covariance_fraction") == pytest.approx(
            left_out.sum().item() / tokens.mask_BT.sum().item()
        )


def test_a_mini_batch_leaves_out_the_same_tokens_however_it_is_cut():
    options = algorithm(clip=ClipCov(0.8, 1.2, share=0.3, lower_covariance=0.0))
    rows = mini_batch([make_group(0, [1, -1, 1], [2, 9, 4]), make_group(1, [1, -1, -1])], options).rows
    found = [
        torch.cat([row.marks["clip/covariance"] for row in PolicyHost(tiny(1), 1.0, size, True).marked(
            on_policy(rows), options, Ranks())]) for size in (1, 30, 1000)
    ]  # fmt: skip
    assert found[0].any() and torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match=r"clip\.share=0"):
        ClipCov(0.8, 1.2, share=0)
    with pytest.raises(ValueError, match=r"clip\.lower_covariance=5"):
        ClipCov(0.8, 1.2, lower_covariance=5, upper_covariance=1)
