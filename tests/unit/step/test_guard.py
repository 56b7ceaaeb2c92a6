"""When a run is given up."""

import logging

import pytest
from conftest import batch_of

from dapo_lightning.draws.graded import Failures
from dapo_lightning.step import guard
from dapo_lightning.step.result import History, Update

BAD, GOOD, EMPTY = Update(False, problem="loss nan"), Update(True), Update(False)


def test_five_bad_updates_in_a_row_end_the_run_even_if_the_next_is_good(caplog):
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(guard.NotFiniteError, match=r"5 gradient steps in a row.*loss nan"),
    ):
        guard.check(batch_of([]), [BAD] * 9 + [GOOD], History(), Failures("wrong"))
    assert len(caplog.records) == 5 and "step 1: loss nan, so the gradient step was skipped." in caplog.text


def test_they_are_counted_over_steps_and_a_good_one_begins_anew():
    history = History().after(batch_of([]), (BAD, BAD, EMPTY, BAD))
    assert history.skipped_in_a_row == 3 and history.skipped_steps == 4
    guard.check(batch_of([]), [BAD, GOOD, BAD, BAD, BAD, BAD], history, Failures("wrong"))
    with pytest.raises(guard.NotFiniteError):
        guard.check(batch_of([]), [BAD, BAD], history, Failures("wrong"))
