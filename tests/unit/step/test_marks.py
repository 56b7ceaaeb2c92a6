"""Options that look at the whole mini-batch see the same tokens however it is divided, and get back what they mark."""

from dataclasses import dataclass, replace

import pytest
import torch
from conftest import algorithm, make_group, mini_batch, tiny
from losses import gradient, on_policy

from dapo_lightning.algorithm.clip import Clip
from dapo_lightning.algorithm.tokens import AllTokens, PerToken, Tokens
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.step.host import PolicyHost
from dapo_lightning.step.marks import with_marks

LENGTHS = ([2, 9, 4], [12, 1, 7], [3, 5, 2])
GROUPS = [make_group(number, [1, -1, -1], lengths) for number, lengths in enumerate(LENGTHS)]


class FirstRank(Ranks):
    """The first of several ranks, which has already received what the others gather."""

    def __init__(self, size, others):
        super().__init__(0, size)
        object.__setattr__(self, "others", others)

    def gather(self, items):
        return [*items, *self.others]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Centred(Clip):
    """r * A * (log-prob - its mean over the mini-batch)."""

    def marks(self, tokens: AllTokens):
        return {"clip/centred": tokens.logps_N - tokens.logps_N.mean(), "clip/ids": tokens.ids_N}

    def __call__(self, ratio_BT, tokens: Tokens):
        return PerToken(ratio_BT * tokens.advantages_BT * tokens.marks["clip/centred"])


def collected(rank, size, options):
    """What a rank has to gather, and its rows."""
    seen = []

    class Spy(Ranks):
        def gather(self, items):
            seen.extend(items)
            raise StopIteration

    rows = on_policy(mini_batch(GROUPS, options, Ranks(rank, size)).rows)
    with pytest.raises(StopIteration):
        with_marks(rows, options, lambda rows: host().statistics(rows), Spy(rank, size))
    return seen, rows


def host():
    return Host(tiny(seed=1), temperature=0.8, micro_batch_tokens=30, logps_are_exact=True)


class Host(PolicyHost):
    def statistics(self, rows):
        with torch.no_grad():
            return self._statistics(self.policy.model, rows)


def test_marks_and_gradients_do_not_depend_on_micro_batches_and_ranks():
    options, model = algorithm(clip=Centred(0.8, 1.2)), tiny(seed=1).model
    whole = host().marked(on_policy(mini_batch(GROUPS, options).rows), options, Ranks())
    every = torch.cat([row.marks["clip/centred"] for row in whole])
    assert every.abs().max() > 0.1 and abs(every.mean().item()) < 1e-5
    for row in whole:
        assert torch.equal(row.marks["clip/ids"], row.trajectory.tokens_T)
    expected, _, _ = gradient(model, whole, options)
    for max_tokens in (1, 20):
        found, _, _ = gradient(model, whole, options, max_tokens)
        torch.testing.assert_close(found, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    parts, rows = zip(*(collected(rank, 2, options) for rank in range(2)), strict=True)
    total = torch.zeros_like(expected)
    for rank in range(2):
        marked = with_marks(rows[rank], options, host().statistics, FirstRank(2, parts[1 - rank]))
        total += gradient(model, marked, options)[0]
    torch.testing.assert_close(total, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


def test_tokens_outside_the_loss_mask_are_not_seen_and_get_no_mark():
    options = algorithm(clip=Centred(0.8, 1.2))
    rows = on_policy(mini_batch(GROUPS[:1], options).rows)
    mask_T = torch.tensor([True, False, *[True] * 7])
    rows[1] = replace(rows[1], trajectory=replace(rows[1].trajectory, loss_mask_T=mask_T))
    marked = host().marked(rows, options, Ranks())
    assert marked[1].marks["clip/ids"][1] == 0 and marked[1].marks["clip/ids"][2] == rows[1].trajectory.tokens_T[2]


def test_without_such_options_nothing_is_computed():
    rows = on_policy(mini_batch(GROUPS, algorithm()).rows)
    assert all(row is other for row, other in zip(with_marks(rows, algorithm(), None, Ranks()), rows, strict=True))
