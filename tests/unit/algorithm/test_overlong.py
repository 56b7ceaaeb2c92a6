import pytest
import torch

from dapo_lightning.algorithm.overlong import Filter, NoOverlong, Punish, PunishAndFilter

LENGTHS = torch.tensor([10, 60, 70, 80, 90, 100, 120])


@pytest.mark.parametrize("option", [Punish(100, 40), PunishAndFilter(100, 40)], ids=repr)
def test_punishment_by_hand(option):
    # free up to 100 - 40 = 60; then (60 - |y|)/40: -0.25 at 70, -0.5 at 80, -0.75 at 90, -1 at 100 and beyond
    expected = torch.tensor([0.0, 0.0, -0.25, -0.5, -0.75, -1.0, -1.0])
    torch.testing.assert_close(option.penalty(LENGTHS), expected)


def test_papers_numbers():
    penalty = Punish(20480, 4096).penalty(torch.tensor([16384, 18432, 20480]))
    torch.testing.assert_close(penalty, torch.tensor([0.0, -0.5, -1.0]))


@pytest.mark.parametrize("option", [NoOverlong(), Filter()], ids=repr)
def test_others_do_not_punish(option):
    assert not option.penalty(LENGTHS).any()


@pytest.mark.parametrize(
    ("option", "expected"),
    [(NoOverlong(), [1, 1]), (Punish(9, 3), [1, 1]), (Filter(), [1, 0]), (PunishAndFilter(9, 3), [1, 0])],
    ids=repr,
)
def test_which_completions_count(option, expected):
    assert option.loss_mask(torch.tensor([False, True])).tolist() == [bool(x) for x in expected]


@pytest.mark.parametrize("cache", [0, -1, 101])
def test_cache_must_fit_in_the_limit(cache):
    with pytest.raises(ValueError, match=r"overlong\.cache_tokens"):
        Punish(100, cache)
