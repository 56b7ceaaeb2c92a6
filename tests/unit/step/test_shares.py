"""The completions of a group may go to different ranks, and only their tensors travel, each to one rank."""

import random
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import pytest
import torch
from conftest import algorithm, batch_of, make_group, mini_batches, tiny
from threads import Threads, on_threads

from dapo_lightning.algorithm.overlong import Filter
from dapo_lightning.draws.exchange import ALL, announced, known_to_all
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.step import shares
from dapo_lightning.step.experience import advantages, shuffles, split
from dapo_lightning.step.host import PolicyHost
from dapo_lightning.types import Prompt, Trajectory

GROUPS = [
    make_group(0, [1, -1, 1], [2, 9, 4]),
    make_group(1, [-1, -1, 1], [12, 1, 7], [True, False, False]),
    make_group(2, [1, 1, -1], [5, 5, 30], [False, False, True]),
    make_group(3, [-1, 1, -1], [3, 8, 6]),
]


@dataclass(frozen=True)
class ByEntropy:
    """Weights that need the entropies of all completions."""

    needs_trajectories: ClassVar[bool] = True

    def weights(self, tokens):
        return tokens.entropies_BT / tokens.entropies_BT.sum()


@dataclass(frozen=True)
class Undeclared(ByEntropy):
    needs_trajectories: ClassVar[bool] = False


def filled(ranks, groups=GROUPS):
    """The batch of a rank that has generated every `size`-th group."""
    stream = PromptStream([Prompt("", "", f"test:{n}") for n in range(4)], seed=0)
    new = announced(ranks.mine(groups), stream, ranks)
    homes, known = zip(*(new[group.number] for group in groups), strict=True)
    return replace(batch_of(groups), groups=known, homes=homes)


def trained_on(batch, options, num_gradient_steps, ranks):
    batch = shares.exchange(batch, options, num_gradient_steps, 1, ranks)
    rewards_PG = batch.scores_PG() + options.overlong.penalty(batch.lengths_PG())
    return split(batch, advantages(rewards_PG, batch.groups, options), options, num_gradient_steps, ranks)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("options", [algorithm(), algorithm(overlong=Filter()), algorithm(loss=ByEntropy())], ids=repr)
def test_every_row_is_trained_on_by_one_rank_with_its_own_tensors(options, size):
    for num_steps in (1, 2, 4):  # 4: a group in each mini-batch, fewer than ranks
        alone = mini_batches(GROUPS, options, num_steps)
        shared = on_threads(size, lambda ranks, n=num_steps: trained_on(filled(ranks), options, n, ranks))
        for expected, *parts in zip(alone, *shared, strict=True):
            assert {part.num_tokens for part in parts} == {expected.num_tokens}
            rows = {tuple(row.trajectory.logps_T.tolist()): row for part in parts for row in part.rows}
            assert len(rows) == len(expected.rows) == sum(len(part.rows) for part in parts)
            for row in expected.rows:
                found = rows[tuple(row.trajectory.logps_T.tolist())]
                assert found.prompt_tokens == row.prompt_tokens and found.trajectory.tokens_T.dtype == torch.int64
                for name in ("tokens_T", "loss_mask_T", "logps_T"):
                    assert torch.equal(getattr(found.trajectory, name), getattr(row.trajectory, name)), name
                assert torch.equal(found.advantages, row.advantages) and torch.equal(found.weights, row.weights)
        if num_steps == 4:
            assert max(len(part.rows) for parts in shared for part in parts) < 3  # the groups are split


def test_what_a_rank_does_not_need_does_not_reach_it():
    batches = on_threads(2, lambda ranks: shares.exchange(filled(ranks), algorithm(), 1, 1, ranks))
    for rank, batch in enumerate(batches):
        for p, group in enumerate(batch.groups):
            assert group.grades == GROUPS[p].grades and torch.equal(group.lengths_G(), GROUPS[p].lengths_G())
            assert group.texts == (GROUPS[p].texts if p % 2 == rank else ())
            for g, trajectory in enumerate(group.trajectories):
                is_here = p % 2 == rank or batch.owners[p][g] == rank
                assert trajectory.tokens_T.is_meta is not is_here and trajectory.entropies_T.is_meta is (p % 2 != rank)


def test_an_option_that_reads_tensors_of_other_ranks_must_say_so():
    def refused(ranks):
        with pytest.raises(ValueError, match=r"Undeclared reads tokens.*needs_trajectories = True"):
            trained_on(filled(ranks), algorithm(loss=Undeclared()), 1, ranks)
        return True

    assert on_threads(2, refused) == [True, True]


def test_every_tensor_of_a_trajectory_can_travel():
    later = {"values_T", "returns_T", "reference_logps_T", "token_rewards_T"}  # computed where completions have arrived
    assert {f.name for f in fields(Trajectory) if f.name.endswith("_T")} == {*ALL, "loss_mask_T", *later}


def test_surplus_groups_are_whole_on_every_rank_and_get_the_same_old_log_probs():
    host = PolicyHost(tiny(seed=1), temperature=1.0, micro_batch_tokens=100, logps_are_exact=False)
    hosts = [deepcopy(host) for _ in range(3)]  # threads must not share a model

    def carried(ranks):
        batch = filled(ranks)
        surplus = known_to_all(list(zip(batch.homes, batch.groups, strict=True)), ranks)
        batch = replace(batch_of([]), surplus=surplus)
        return hosts[ranks.rank].with_old_logps(batch, algorithm(overlong=Filter()), 0, ranks).surplus

    (alone,), others = on_threads(1, carried), on_threads(3, carried)
    for other in others:
        for one, same in zip(alone, other, strict=True):
            assert one.texts == same.texts and one.grades == same.grades
            for trajectory, copied in zip(one.trajectories, same.trajectories, strict=True):
                assert torch.equal(trajectory.entropies_T, copied.entropies_T)
                assert (trajectory.old_logps_T is None) == (copied.old_logps_T is None) == trajectory.truncated
                if not trajectory.truncated:
                    torch.testing.assert_close(trajectory.old_logps_T, copied.old_logps_T)


@pytest.mark.parametrize(("num_groups", "size"), [(32, 128), (32, 8), (256, 3), (1, 4), (3, 2), (20, 16)])
def test_ranks_get_nearly_the_same_number_of_tokens(num_groups, size):
    draw = random.Random(0)
    groups = [make_group(n, [1, -1] * 8, [draw.randint(20, 200) for _ in range(16)]) for n in range(num_groups)]
    (owners,) = [shares.owners_of(groups, algorithm(), 1, 1, size)]
    loads = [0] * size
    for group, of_group in zip(groups, owners, strict=True):
        for rank in set(of_group):
            loads[rank] += len(group.prompt_tokens)
        for rank, length in zip(of_group, group.lengths_G().tolist(), strict=True):
            loads[rank] += length
    assert max(loads) <= 1.12 * sum(loads) / size
    if num_groups == 256:
        assert sum(len(set(of_group)) > 1 for of_group in owners) <= 2 * size  # the others stay whole


@pytest.mark.parametrize(("num_epochs", "bound"), [(1, 1.1), (2, 1.7)])
def test_mini_batches_of_further_passes_give_every_rank_work(num_epochs, bound):
    """Had the groups stayed whole, as in a single pass, one rank would get 2.2 times its share in the second one."""
    draw = random.Random(0)
    groups = [make_group(n, [1, -1] * 4, [draw.randint(50, 1000) for _ in range(8)]) for n in range(32)]
    owners = shares.owners_of(groups, algorithm(), 4, num_epochs, 8)
    order = shuffles(num_epochs, 32, seed=0, step=0)[-1]
    for places in shares.parts(32, 4):
        loads = [0] * 8
        for p in (order[place] for place in places):
            for rank, length in zip(owners[p], groups[p].lengths_G().tolist(), strict=True):
                loads[rank] += length
        assert max(loads) <= bound * sum(loads) / 8


def test_one_rank_trains_on_everything():
    assert shares.owners_of(GROUPS, algorithm(), 2, 1, 1) == ((0, 0, 0),) * 4
    filtered = shares.owners_of(GROUPS, algorithm(overlong=Filter()), 1, 1, 2)
    assert filtered[1][0] is None and filtered[2][2] is None
    assert Threads().mine(GROUPS) == GROUPS
