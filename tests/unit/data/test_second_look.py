"""Sums in two turns: every worked example is what a conversation would look like."""

import re
from dataclasses import replace

import pytest

from dapo_lightning.data.second_look import SecondLook

DATA = SecondLook(2, 9, 9, 50, 50, seed=0, steps_per_turn=4, plain_share=0.5, guess=0.6, repeat=0.6, message="?")


def total(prompt):
    return str(sum(map(int, re.findall(r"[+-]?\d", prompt))))


def test_plain_examples_are_right_in_the_end_and_go_a_few_steps_in_a_turn():
    examples = DATA.worked_examples(400, seed=1)
    for example in examples[:200]:
        first, *rest = example.solution.split("<eos>?")
        assert [turn.count("=") for turn in (first, *rest)] <= [4, 4]
        num_terms = len(re.findall(r"[+-]?\d", example.prompt))
        assert first.partition("#")[2] == total(example.prompt) or num_terms > 5
        assert (first, *rest)[-1].partition("#")[2] == total(example.prompt)


def test_later_examples_guess_and_repeat_and_a_right_answer_ends_them():
    turns = [(e, e.solution.split("<eos>?")) for e in DATA.worked_examples(400, seed=1)[200:]]
    guesses = [found for _, found in turns if found[0].startswith("#")]
    assert 0.45 < len(guesses) / len(turns) < 0.75
    seconds = [found for _, found in turns if len(found) == 2]
    assert 0.45 < sum(one[1] == "#" + one[0].partition("#")[2] for one in seconds) / len(seconds) < 0.75
    assert all((len(found) == 1) == (found[0].partition("#")[2] == total(e.prompt)) for e, found in turns)


@pytest.mark.parametrize("changes", [{"steps_per_turn": 0}, {"guess": 1.5}, {"max_total": 5}])
def test_settings_without_meaning_are_refused(changes):
    with pytest.raises(ValueError, match=rf"data\.{next(iter(changes))}|data\.plain_share, data\.guess"):
        replace(DATA, **changes)
