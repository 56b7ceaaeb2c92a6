"""Schedules are those of Hugging Face, and the constant one is that of all earlier runs."""

import math

import pytest
import torch
from hydra.utils import instantiate
from runs import config
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from dapo_lightning.step.schedule import scheduled


def rates(option, num_steps=10, warmup=4, **settings):
    composed = config(f"schedule={option}", "run_folder=x", f"num_steps={num_steps}", f"num_warmup_steps={warmup}")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    return list(walk(optimizer, instantiate(composed.schedule, **settings)(optimizer), num_steps))


def walk(optimizer, schedule, num_steps):
    for _ in range(num_steps):
        yield schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("warmup", [0, 1, 4, 20])
def test_constant_is_what_it_has_always_been_bit_for_bit(warmup):
    assert rates("constant", warmup=warmup) == [0.3 * min(1.0, (step + 1) / max(1, warmup)) for step in range(10)]


def test_by_hand():
    # four steps of warm-up, then six steps of a decay over seven: 1 - 1/7, 1 - 2/7, ...
    expected = [0.25, 0.5, 0.75, 1.0, *(1 - k / 7 for k in range(1, 7))]
    assert rates("linear") == pytest.approx([0.3 * factor for factor in expected])
    cosine = [0.25, 0.5, 0.75, 1.0, *((1 + math.cos(math.pi * k / 7)) / 2 for k in range(1, 7))]
    assert rates("cosine") == pytest.approx([0.3 * factor for factor in cosine])
    assert rates("cosine", min_lr_rate=0.1) == pytest.approx([0.3 * max(f, 0.1 + 0.9 * f) if i > 3 else 0.3 * f
                                                             for i, f in enumerate(cosine)])  # fmt: skip


@pytest.mark.parametrize(
    ("option", "theirs"), [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)]
)
@pytest.mark.parametrize("warmup", [0, 3])
def test_it_is_theirs_without_the_steps_that_would_not_train(option, theirs, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    expected = list(walk(optimizer, theirs(optimizer, warmup, 11), 11))[1:]
    assert rates(option, warmup=warmup) == pytest.approx(expected) and min(expected) > 0


def test_a_parameter_group_may_begin_later_with_all_of_its_schedule():
    groups = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 0.2}]
    optimizer, found = torch.optim.SGD(groups, lr=0.3), []
    schedule = scheduled(optimizer, "linear", num_warmup_steps=4, num_steps=10, delays=(3, 0))
    for _ in range(10):
        found.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    first, second = zip(*found, strict=True)
    assert first == pytest.approx([0, 0, 0, *rates("linear", num_steps=7)])
    assert second == pytest.approx([rate * 2 / 3 for rate in rates("linear")])


def test_a_resumed_schedule_goes_on_exactly():
    def made():
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
        composed = config("schedule=cosine", "run_folder=x", "num_steps=10", "num_warmup_steps=4")
        return optimizer, instantiate(composed.schedule)(optimizer)

    first, again = made(), made()
    head = list(walk(*first, 5))  # type: ignore[call-arg]
    again[0].load_state_dict(first[0].state_dict())
    again[1].load_state_dict(first[1].state_dict())
    assert head + list(walk(*again, 5)) == rates("cosine")  # type: ignore[call-arg]
