import pytest
from conftest import make_group

from dapo_lightning.algorithm.sampling import Dynamic, SamplingError, Static
from dapo_lightning.data.draw import GroupDraws
from dapo_lightning.data.stream import PromptStream
from dapo_lightning.types import Prompt

PROMPTS = [Prompt(str(i), str(i), f"test:{i}") for i in range(10)]


def scripted(draws):
    """Even prompts are useful, prompts divisible by 3 are all correct, the others all wrong."""
    return [make_group(d.number, SCRIPT[int(d.prompt.text) % 2 == 0][int(d.prompt.text) % 3 == 0]) for d in draws]


SCRIPT = {True: {True: [1, -1], False: [1, -1]}, False: {True: [1, 1], False: [-1, -1]}}


def draws(sampling, num_groups=4):
    return GroupDraws(PromptStream(PROMPTS, seed=0), sampling, num_groups, num_steps=3)


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
    assert sum(filled.reasons.values()) == iterable.num_drawn == filled.num_groups_generated
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
    assert iterable.num_drawn == 0


def test_partial_batch_is_told():
    filled = next(iter(draws(Dynamic(1, "train_partial"), num_groups=9))).fill(scripted)
    assert 0 < len(filled.groups) < 9 and "short" in filled.warning


def test_cursor_is_the_whole_state():
    one = draws(Dynamic(10, "error"))
    for promise in list(one)[:2]:
        promise.fill(scripted)
    other = draws(Dynamic(10, "error"))
    other.load_state_dict(one.state_dict())
    fill = [next(iter(iterable)).fill(scripted) for iterable in (one, other)]
    assert [g.draw for g in fill[0].groups] == [g.draw for g in fill[1].groups]
