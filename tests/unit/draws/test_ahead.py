"""Generation ahead of demand: how much is generated, and when it stops."""

import pytest
from conftest import make_group
from draws import draws, history, in_batches

from dapo_lightning.algorithm.sampling import Dynamic
from dapo_lightning.draws.ahead import KeepRate
from dapo_lightning.draws.fill import DrawState, fill


def test_generation_stops_when_enough_groups_are_known_and_waits_no_sooner_than_it_must():
    prompts, log = draws(num_groups=2), []
    prompts.state = DrawState(keep_rate=KeepRate(8, 2))  # a round of eight

    def generate(share):
        for numbered in share:
            log.append(f"generate {numbered.number}")
            group = make_group(numbered.number, [1, 1] if numbered.number == 0 else [1, -1])
            yield [lambda group=group: log.append(f"wait {group.number}") or group]

    batch = fill(prompts, generate, Dynamic(2, "error"))
    assert log == ["generate 0", "generate 1", "wait 0", "generate 2", "wait 1", "wait 2"]
    assert batch.reasons == {"all_correct": 1, "useful": 2} and batch.num_rounds == 1


def test_groups_generated_in_vain_count_as_generated_only():
    prompts = draws(num_groups=2)
    prompts.state = DrawState(keep_rate=KeepRate(8, 2))
    useful = lambda share: in_batches([make_group(n.number, [1, -1]) for n in share], size=3)  # noqa: E731
    batch = fill(prompts, useful, Dynamic(2, "error"))
    assert batch.reasons == {"useful": 2} and batch.num_drawn == 2 and len(batch.records) == 3
    assert [record.number for record in batch.used] == [0, 1]


def test_nothing_is_generated_for_a_round_that_is_no_longer_needed():
    """Of five prompts generated, four are kept; by the keep rate of the first four, the step asks for two more."""
    prompts, sizes = draws(num_groups=4), []
    prompts.state = DrawState(keep_rate=KeepRate(10, 8))

    def one_of_five_is_wrong(share):
        sizes.append(len(share))
        return in_batches([make_group(n.number, [1, 1] if n.number == 1 else [1, -1]) for n in share])

    batch = fill(prompts, one_of_five_is_wrong, Dynamic(10, "error"))
    assert sizes == [5] and len(batch.groups) == 4 and batch.num_drawn == 6


def test_the_first_round_generates_as_many_prompts_as_the_recent_keep_rate_suggests():
    *_, (_, _, last) = history(Dynamic(100, "error"), num_steps=40)
    assert last.keep_rate.value == pytest.approx(0.5, abs=0.2)  # half of what `learning` gives is useful
    sizes = []

    def note(share):
        sizes.append(len(share))
        raise RuntimeError("that is all")

    for keep_rate in (KeepRate(), KeepRate(30, 15), KeepRate(30, 1)):
        prompts = draws()
        prompts.state = DrawState(keep_rate=keep_rate)
        with pytest.raises(RuntimeError, match="all"):
            fill(prompts, note, Dynamic(100, "error"))
    assert sizes == [4, 8, 16]


def test_the_keep_rate_follows_the_last_steps():
    rate = KeepRate()
    assert rate.value == rate.decayed().value == 1.0
    good, bad = [Dynamic(1, "error").verdict(make_group(0, scores)) for scores in ([1, -1], [1, 1])]
    rate = rate.updated([good, bad, bad, bad])
    assert rate.value == rate.decayed().value == 0.25
    assert rate.decayed().updated([good] * 4).value == (0.7 + 4) / (2.8 + 4)
