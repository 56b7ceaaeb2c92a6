import pytest
from conftest import algorithm

from dapo_lightning.algorithm.clip_cov import ClipCov
from dapo_lightning.algorithm.geometric import GeometricClip
from dapo_lightning.algorithm.rejection import RejectTokens
from dapo_lightning.algorithm.sequence import SequenceRatio, SequenceTokenRatio
from dapo_lightning.algorithm.top_tokens import TopTokens

TOP = {"entropy": TopTokens(0.2)}


@pytest.mark.parametrize(
    ("coupling", "choosing", "named"),
    [
        ({"ratio": SequenceRatio()}, TOP, "entropy (TopTokens)"),
        ({"clip": GeometricClip(0.7, 1.5)}, TOP, "entropy (TopTokens)"),
        ({"ratio": SequenceRatio()}, {"rejection": RejectTokens(0.5, 2.0)}, "rejection (RejectTokens)"),
        ({"ratio": SequenceRatio()}, {"clip": ClipCov(0.8, 1.2)}, "clip (ClipCov)"),
    ],
)
def test_tokens_that_share_a_ratio_cannot_be_left_out_one_by_one(coupling, choosing, named):
    """The gradient of a token's copy of the ratio flows through all tokens, also through those that are left out."""
    algorithm(**coupling)
    algorithm(**choosing)
    with pytest.raises(ValueError, match="ratio=sequence_token") as caught:
        algorithm(**coupling, **choosing)
    assert named in str(caught.value)


def test_a_ratio_whose_gradient_is_that_of_each_token_may_be_combined():
    algorithm(ratio=SequenceTokenRatio(), **TOP)
