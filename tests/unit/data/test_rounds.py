"""Sums in rounds: prompts, worked answers and their lengths."""

import re
from dataclasses import replace

import pytest
from conftest import tiny

from dapo_lightning.data.rounds import Rounds, answer, question

DATA = Rounds(5, 9, 2, min_tokens=1000, max_tokens=1500, num_train=60, num_validation=60, seed=0)


def solved(prompt):
    """First digit, terms and number of rounds of a prompt, read from its text."""
    first, terms, rounds = re.fullmatch(r"(\d)((?:[a-w][+-]\d)+)x(\d+)=", prompt).groups()
    return int(first), [int(term) for term in re.findall(r"[+-]\d", terms)], int(rounds)


def test_an_answer_by_hand():
    assert question([7, 5, -3], 2) == "7a+5b-3x2="
    assert answer([7, 5, -3], 2) == "2a+5=2b-3=9,1a+5=4b-3=1#1"


def test_worked_answers_have_as_many_tokens_as_they_should_and_end_with_the_answer():
    codec = tiny(seed=0).codec
    for prompt in (*DATA.train_prompts(), *DATA.validation_prompts()):
        first, terms, rounds = solved(prompt.text)
        assert 5 <= len(terms) <= 9 and max(map(abs, terms)) <= 2
        assert prompt.answer == str((first + rounds * sum(terms)) % 10)
        written = answer([first, *terms], rounds)
        assert written.endswith(f"#{prompt.answer}") and written.count(",") == rounds - 1
        assert 1000 <= len(codec.encode_text(written)) + 1 <= 1500


def test_no_held_out_sum_is_trained_on_or_shown():
    held_out = {prompt.text for prompt in DATA.validation_prompts()}
    assert not held_out & {prompt.text for prompt in DATA.train_prompts()}
    examples = DATA.worked_examples(50, seed=1)
    assert {solved(example.prompt)[2] < 25 for example in examples} == {True, False}
    for example in examples:
        first, terms, rounds = solved(example.prompt)
        assert example.solution == answer([first, *terms], rounds)


@pytest.mark.parametrize("changes", [{"max_terms": 24}, {"max_term": 0}, {"min_tokens": 1500}, {"min_tokens": 9000}])
def test_settings_without_meaning_are_refused(changes):
    with pytest.raises(ValueError, match=rf"data\.{next(iter(changes))}"):
        replace(DATA, **changes)
