"""Stopwatches, on a clock that is set by hand."""

from dapo_lightning.utils import clock


def test_what_nothing_else_is_charged_with(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    stopwatch = clock.Clock()
    with stopwatch.remainder("wait"):
        now[0] += 1.0
        with stopwatch("generate"):
            now[0] += 10.0
        with stopwatch("grade"):
            now[0] += 100.0
        now[0] += 2.0
    assert stopwatch.seconds == {"generate": 10.0, "grade": 100.0, "wait": 3.0}


def test_a_block_inside_a_block_is_charged_to_the_outer_one(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    stopwatch = clock.Clock()
    with stopwatch("evaluate"):
        with stopwatch("generate"):
            now[0] += 10.0
        now[0] += 1.0
    with stopwatch("generate"):
        now[0] += 5.0
    assert stopwatch.seconds == {"evaluate": 11.0, "generate": 5.0}
