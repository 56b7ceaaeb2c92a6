"""Dynamic sampling: which groups a step trains on, whatever was generated ahead and on however many ranks."""

import math

import pytest
from conftest import make_group
from draws import PROMPTS, always, draws, history, in_batches, learning, scripted, step
from threads import on_threads

from dapo_lightning.algorithm.sampling import Dynamic, SamplingError, Static
from dapo_lightning.draws.ahead import KeepRate
from dapo_lightning.draws.fill import DrawLoader, DrawState, fill
from dapo_lightning.draws.stream import PromptStream


def test_fill_keeps_useful_groups_in_order_and_counts_the_others():
    batch = fill(draws(), scripted, Dynamic(10, "error"))
    assert len(batch.groups) == 4 and all(0 < group.num_correct < group.size for group in batch.groups)
    numbers = [group.number for group in batch.groups]
    assert numbers == sorted(numbers)
    assert sum(batch.reasons.values()) == batch.num_drawn == len(batch.records)
    assert set(batch.reasons) == {"useful", "all_correct", "all_wrong"}


def test_nothing_is_sampled_before_fill_and_nothing_is_used_up_by_it():
    loader = DrawLoader(draws(), num_steps=3)
    handed_out = list(loader)
    assert len(handed_out) == len(loader) == 3 and loader.draws.state == DrawState()
    batch = fill(handed_out[0], scripted, Static())
    assert batch.num_rounds == 1 and loader.draws.state == DrawState()
    assert batch.next_state.num_drawn == 4


def test_one_round_is_one_round():
    prompts = draws()
    prompts.state = DrawState(keep_rate=KeepRate(100, 1))  # generating ahead would take four times as many
    batch = fill(prompts, scripted, Dynamic(1, "train_partial"))
    assert len(batch.records) == batch.num_drawn == 4 and batch.num_rounds == 1


def test_with_carrying_one_round_is_as_large_as_the_keep_rate_suggests():
    """Surplus groups are of use, so that the round is not cut to the prompts of this step."""
    prompts = draws()
    prompts.state = DrawState(keep_rate=KeepRate(100, 50))
    batch = fill(prompts, always([1, -1]), Dynamic(1, "train_partial", surplus="carry"))
    assert len(batch.records) == 8 and batch.num_rounds == 1 and len(batch.surplus) == 3


def test_a_group_whose_reward_is_not_finite_is_not_carried():
    def third_is_broken(share):
        return in_batches([make_group(n.number, [1, math.nan] if n.number == 5 else [1, -1]) for n in share])

    prompts = draws()
    prompts.state = DrawState(keep_rate=KeepRate(100, 50))
    batch = fill(prompts, third_is_broken, Dynamic(3, "error", surplus="carry"))
    assert [group.number for group in batch.surplus] == [4, 6]


def test_a_step_that_fails_uses_up_nothing():
    def broken(_):
        raise RuntimeError("reward")

    prompts = draws(num_groups=9)
    with pytest.raises(RuntimeError, match="reward"):
        step(prompts, broken, Dynamic(1, "error"))
    with pytest.raises(SamplingError):
        step(prompts, scripted, Dynamic(1, "error"))
    assert prompts.state == DrawState()


def test_a_partial_batch_is_warned_of():
    prompts = draws(num_groups=9)
    batch = step(prompts, scripted, Dynamic(1, "train_partial"))
    assert 0 < len(batch.groups) < 9 and "short" in batch.warning
    assert prompts.state.num_drawn == 9  # prompts that were not kept are used up as well


@pytest.mark.parametrize("surplus", ["drop", "carry"])
def test_the_state_is_all_that_a_resumed_run_needs(surplus):
    sampling = Dynamic(10, "error", surplus=surplus)
    one, other = DrawLoader(draws(), 3), DrawLoader(draws(), 3)
    for _ in range(2):
        step(one.draws, scripted, sampling)
    other.load_state_dict(one.state_dict())
    batches = [step(loader.draws, scripted, sampling) for loader in (one, other)]
    assert [g.number for g in batches[0].groups] == [g.number for g in batches[1].groups]
    assert batches[0].reasons == batches[1].reasons and batches[0].num_rounds == batches[1].num_rounds
    state, same = one.draws.state, other.draws.state
    assert state.num_drawn == same.num_drawn and state.keep_rate == same.keep_rate != KeepRate()
    assert [g.number for g in state.carried] == [g.number for g in same.carried]


def on_two_ranks(sampling, size):
    return on_threads(2, lambda ranks: list(history(sampling, size, ranks)))


def trained(steps):
    return [(groups, num_drawn) for groups, num_drawn, _ in steps]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("max_oversampling", [1, 1.5, 4, 10])
@pytest.mark.parametrize("believed", [None, 0.0, 0.3, 1.0])
def test_what_is_trained_on_depends_on_neither_generation_ahead_nor_ranks(
    believed, max_oversampling, size, monkeypatch
):
    """The obvious way: rounds by this step's keep rate, all of them generated; the next step begins after them."""
    expected, number = [], 0
    for step_number in range(15):
        groups, seen, round_size = [], 0, 4
        while round_size > 0:
            prompts = PromptStream(PROMPTS, seed=0).take(number, number + round_size)
            round_ = [learning(step_number, numbered) for numbered in prompts]
            groups += [(group.number, group.scores_G().tolist()) for group in round_ if group.num_correct == 1]
            number, seen, missing = number + round_size, seen + round_size, 4 - len(groups)
            needed = math.ceil(missing / (len(groups) / seen)) if groups else 1000
            round_size = min(int(max_oversampling * missing), needed)
        expected.append((groups[:4], number))
    if believed is not None:
        monkeypatch.setattr(KeepRate, "value", believed)
    sampling = Dynamic(100, "error", max_oversampling)
    assert trained(history(sampling, size)) == expected
    for rank in on_two_ranks(sampling, size):
        assert trained(rank) == expected


def test_the_cap_on_rounds_does_not_depend_on_generation_ahead_either(monkeypatch):
    def rare(share):
        return in_batches([make_group(n.number, [1, -1] if n.number % 8 == 7 else [1, 1]) for n in share])

    def filled(believed):
        monkeypatch.setattr(KeepRate, "value", believed)
        batch = fill(draws(), rare, Dynamic(2, "train_partial"))
        return batch, (batch.reasons, batch.warning, [group.number for group in batch.groups], batch.num_drawn)

    (plain, first), (ahead, second) = filled(1.0), filled(0.0)
    assert first == second and first[2:] == ([7, 15], 20)  # rounds of 4 and of 4 x 4
    assert len(plain.records) == len(ahead.records) == 20  # nothing is generated ahead of the last round


def test_carried_groups_are_trained_on_first_once_and_by_all_ranks_alike():
    sampling = Dynamic(100, "error", surplus="carry")
    alone = list(history(sampling))
    for other in (history(sampling, size=1), *on_two_ranks(sampling, size=3)):
        assert trained(other) == trained(alone)
    numbers = [number for groups, _, _ in alone for number, _ in groups]
    assert numbers == sorted(set(numbers)) and sum(batch.num_carried for *_, batch in alone) > 10
    num_drawn, carried = 0, []
    for groups, end, batch in alone:
        assert [number for number, _ in groups][: len(carried)] == carried and batch.num_carried == len(carried)
        num_generated = len(batch.records)
        assert num_generated >= end - num_drawn > 0
        assert num_generated == end - num_drawn or len(batch.surplus) == 3
        num_drawn, carried = end, [group.number for group in batch.surplus]
        assert len(carried) < 4


def test_more_surplus_than_a_step_has_room_for_is_drawn_again():
    prompts = draws(num_groups=2)
    prompts.state = DrawState(keep_rate=KeepRate(10, 1))
    batch = step(prompts, always([1, -1]), Dynamic(10, "error", max_oversampling=10, surplus="carry"))
    assert len(batch.records) == 20
    assert [group.number for group in batch.surplus] == [2] and prompts.state.num_drawn == 3
