import math
import random
import threading
from functools import partial

import pytest
from conftest import make_group

from dapo_lightning.algorithm.sampling import Dynamic, SamplingError, Static
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.fill import GroupDraws, KeepRate
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.types import Prompt

PROMPTS = [Prompt(str(i), str(i), f"test:{i}") for i in range(10)]


def scripted(draws):
    """Even prompts are useful, prompts divisible by 3 are all correct, the others all wrong."""
    return together(
        [make_group(d.number, SCRIPT[int(d.prompt.text) % 2 == 0][int(d.prompt.text) % 3 == 0]) for d in draws]
    )


def together(groups, at_once=1000):
    """As a rollout that generates so many groups at once yields them."""
    for start in range(0, len(groups), at_once):
        yield [partial(lambda group: group, group) for group in groups[start : start + at_once]]


SCRIPT = {True: {True: [1, -1], False: [1, -1]}, False: {True: [1, 1], False: [-1, -1]}}


def draws(sampling, num_groups=4, num_steps=3):
    return GroupDraws(PromptStream(PROMPTS, seed=0), sampling, num_groups, num_steps)


def test_every_epoch_shows_every_prompt_once_in_another_order():
    stream = PromptStream(PROMPTS, seed=0)
    epochs = [[draw.prompt.text for draw in stream.draws(start, 10)] for start in (0, 10, 20)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_draw_does_not_depend_on_how_it_is_reached():
    one, other = PromptStream(PROMPTS, 0), PromptStream(PROMPTS, 0)
    other.draws(25, 3)
    assert one.draws(7, 6) == other.draws(7, 6)
    assert PromptStream(PROMPTS, 1).draws(0, 10) != one.draws(0, 10)


def test_fill_keeps_useful_groups_in_draw_order_and_counts_the_others():
    iterable = draws(Dynamic(10, "error"))
    filled = next(iter(iterable)).fill(scripted)
    assert len(filled.groups) == 4 and all(0 < group.num_correct < group.size for group in filled.groups)
    numbers = [group.draw.number for group in filled.groups]
    assert numbers == sorted(numbers)
    assert sum(filled.reasons.values()) == iterable.num_drawn == filled.num_generated
    assert set(filled.reasons) == {"useful", "all_correct", "all_wrong"}


def test_nothing_is_sampled_before_fill():
    iterable = draws(Static())
    promises = list(iterable)
    assert len(promises) == len(iterable) == 3 and iterable.num_drawn == 0
    assert promises[0].fill(scripted).num_rounds == 1
    assert iterable.num_drawn == 4


def test_the_cursor_stays_when_sampling_fails():
    def broken(_):
        raise RuntimeError("reward")

    iterable = draws(Dynamic(1, "error"), num_groups=9)
    with pytest.raises(RuntimeError, match="reward"):
        next(iter(iterable)).fill(broken)
    with pytest.raises(SamplingError):
        next(iter(iterable)).fill(scripted)
    assert iterable.state_dict() == draws(Static()).state_dict()


def test_partial_batch_is_told():
    filled = next(iter(draws(Dynamic(1, "train_partial"), num_groups=9))).fill(scripted)
    assert 0 < len(filled.groups) < 9 and "short" in filled.warning
    partial_batch = draws(Dynamic(1, "train_partial"), num_groups=9)
    next(iter(partial_batch)).fill(scripted)
    assert partial_batch.num_drawn == 9  # whatever was not kept is behind us


@pytest.mark.parametrize("surplus", ["drop", "carry"])
def test_cursor_keep_rate_and_carried_groups_are_the_whole_state(surplus):
    one = draws(Dynamic(10, "error", surplus=surplus))
    for promise in list(one)[:2]:
        promise.fill(scripted)
    other = draws(Dynamic(10, "error", surplus=surplus))
    other.load_state_dict(one.state_dict())
    fill = [next(iter(iterable)).fill(scripted) for iterable in (one, other)]
    assert [g.draw for g in fill[0].groups] == [g.draw for g in fill[1].groups]
    assert fill[0].reasons == fill[1].reasons and fill[0].num_rounds == fill[1].num_rounds
    assert one.num_drawn == other.num_drawn and one.keep_rate == other.keep_rate != KeepRate()
    assert [g.draw for g in one.carried] == [g.draw for g in other.carried]


def learning(step, draw):
    """The group of a draw depends on the weights it is sampled with."""
    return make_group(draw.number, random.Random(f"{step} {draw.number}").choice([[1, 1], [-1, -1], [1, -1], [-1, 1]]))


class Threads(Ranks):
    """Ranks that are threads."""

    def gather(self, items):
        PARTS[self.rank] = list(items)
        BARRIER.wait(10)
        gathered = [item for rank in range(self.size) for item in PARTS[rank]]
        BARRIER.wait(10)
        return gathered


PARTS, BARRIER = {}, threading.Barrier(2, timeout=10)


def history(sampling, at_once=1000, ranks=Ranks(), num_steps=15):  # noqa: B008
    """What each step trained on, where it left the cursor, what it generated."""
    iterable = draws(sampling, num_steps=num_steps)
    for step, promise in enumerate(iterable):
        filled = promise.fill(
            lambda share, step=step: together([learning(step, draw) for draw in share], at_once), ranks
        )
        yield [(group.draw.number, group.scores_G().tolist()) for group in filled.groups], iterable.num_drawn, filled


def on_two_ranks(sampling, at_once):
    results = {}
    threads = [
        threading.Thread(
            target=lambda rank=rank: results.update({rank: list(history(sampling, at_once, Threads(rank, 2)))})
        )
        for rank in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results[0], results[1]


def trained(steps):
    return [(groups, cursor) for groups, cursor, _ in steps]


@pytest.mark.parametrize("at_once", [1, 3, 1000])
@pytest.mark.parametrize("max_oversampling", [1, 1.5, 4, 10])
@pytest.mark.parametrize("believed", [None, 0.0, 0.3, 1.0])
def test_what_is_trained_on_depends_on_neither_what_is_sampled_at_once_nor_ranks(
    believed, max_oversampling, at_once, monkeypatch
):
    """The obvious way: rounds by this step's keep rate, all of it generated; the next step goes on from there."""
    expected, number = [], 0
    for step in range(15):
        groups, seen, size = [], 0, 4
        while size > 0:
            round_ = [learning(step, draw) for draw in PromptStream(PROMPTS, seed=0).draws(number, size)]
            groups += [(group.draw.number, group.scores_G().tolist()) for group in round_ if group.num_correct == 1]
            number, seen, missing = number + size, seen + size, 4 - len(groups)
            size = min(int(max_oversampling * missing), math.ceil(missing / (len(groups) / seen)) if groups else 1000)
        expected.append((groups[:4], number))
    if believed is not None:
        monkeypatch.setattr(KeepRate, "value", believed)
    sampling = Dynamic(100, "error", max_oversampling)
    assert trained(history(sampling, at_once)) == expected
    for rank in on_two_ranks(sampling, at_once):
        assert trained(rank) == expected


def test_the_cap_on_rounds_does_not_depend_on_what_is_sampled_at_once_either(monkeypatch):
    def fill(believed):
        monkeypatch.setattr(KeepRate, "value", believed)
        iterable = draws(Dynamic(2, "train_partial"), num_groups=4)
        filled = next(iter(iterable)).fill(
            lambda share: together(
                [make_group(draw.number, [1, -1] if draw.number % 8 == 7 else [1, 1]) for draw in share]
            )
        )
        return filled, (filled.reasons, filled.warning, [group.draw.number for group in filled.groups], filled.cursor)

    (plain, first), (greedy, second) = fill(1.0), fill(0.0)
    assert first == second and first[2:] == ([7, 15], 20)  # rounds of 4 and of 4 x 4
    assert plain.num_generated == 20 < greedy.num_generated


def test_carried_groups_are_trained_on_first_once_and_by_all_ranks_alike():
    sampling = Dynamic(100, "error", surplus="carry")
    alone = list(history(sampling))
    for other in (history(sampling, at_once=1), *on_two_ranks(sampling, at_once=3)):
        assert trained(other) == trained(alone)
    numbers = [number for groups, _, _ in alone for number, _ in groups]
    assert numbers == sorted(set(numbers)) and sum(filled.num_carried for *_, filled in alone) > 10
    cursor, carried = 0, []
    for groups, end, filled in alone:
        assert [number for number, _ in groups][: len(carried)] == carried and filled.num_carried == len(carried)
        assert filled.num_generated >= end - cursor > 0 and (
            filled.num_generated == end - cursor or len(filled.surplus) == 3
        )
        cursor, carried = end, [group.draw.number for group in filled.surplus]
        assert len(carried) < 4


def test_more_surplus_than_a_step_can_leave_room_for_is_drawn_again():
    iterable = draws(Dynamic(10, "error", max_oversampling=10, surplus="carry"), num_groups=2)
    iterable.keep_rate = KeepRate(10, 1)
    filled = next(iter(iterable)).fill(lambda share: together([make_group(draw.number, [1, -1]) for draw in share]))
    assert filled.num_generated == 20
    assert [group.draw.number for group in filled.surplus] == [2] and iterable.num_drawn == 3


def test_generation_stops_when_enough_groups_are_known_and_waits_no_sooner_than_it_must():
    iterable, log = draws(Dynamic(2, "error"), num_groups=2), []
    iterable.keep_rate = KeepRate(8, 2)  # a round of eight

    def sample(share):
        for draw in share:
            log.append(f"generate {draw.number}")
            scores = [1, 1] if draw.number == 0 else [1, -1]
            yield [
                lambda draw=draw, scores=scores: log.append(f"wait {draw.number}") or make_group(draw.number, scores)
            ]

    filled = next(iter(iterable)).fill(sample)
    assert log == ["generate 0", "generate 1", "wait 0", "generate 2", "wait 1", "wait 2"]
    assert filled.reasons == {"all_correct": 1, "useful": 2} and filled.num_rounds == 1


def test_groups_generated_in_vain_are_counted_as_generated_only():
    iterable = draws(Dynamic(1, "error"), num_groups=2)
    iterable.keep_rate = KeepRate(8, 2)
    useful = lambda share: together([make_group(draw.number, [1, -1]) for draw in share], at_once=3)  # noqa: E731
    filled = next(iter(iterable)).fill(useful)
    assert filled.reasons == {"useful": 2} and iterable.num_drawn == 2 and filled.num_generated == 3


def test_the_first_round_of_a_step_asks_for_what_the_keep_rate_of_late_says():
    *_, (_, _, last) = history(Dynamic(100, "error"), num_steps=40)
    assert last.keep_rate == pytest.approx(0.5, abs=0.2)  # half of what `learning` gives is useful
    sizes = []

    def ask(share):
        sizes.append(len(share))
        raise RuntimeError("that is all")

    for keep_rate in (KeepRate(), KeepRate(30, 15), KeepRate(30, 1)):
        iterable = draws(Dynamic(100, "error"), num_groups=4)
        iterable.keep_rate = keep_rate
        with pytest.raises(RuntimeError, match="all"):
            next(iter(iterable)).fill(ask)
    assert sizes == [4, 8, 16]


def test_the_keep_rate_follows_the_last_steps():
    rate = KeepRate()
    assert rate.value == rate.faded().value == 1.0
    good, bad = [Dynamic(1, "error").verdict(make_group(0, scores)) for scores in ([1, -1], [1, 1])]
    rate = rate.having_seen([good, bad, bad, bad])
    assert rate.value == rate.faded().value == 0.25
    assert rate.faded().having_seen([good] * 4).value == (0.7 + 4) / (2.8 + 4)
