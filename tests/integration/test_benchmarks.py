"""What the benchmarks make of their numbers; the measurements themselves need TRL and a quiet machine."""

from __future__ import annotations

import pytest

from benchmarks.time_to_accuracy import OURS, TRL, check_same_start, crossing, report


def points(*accuracies: float) -> list[dict[str, float]]:
    """Two rollouts and ten seconds apart."""
    return [
        {"rollouts": 2 * i, "seconds": 10.0 * i, "completions": 512 * i, "accuracy": accuracy}
        for i, accuracy in enumerate(accuracies)
    ]


def run(seed: int, implementation: str, *accuracies: float) -> dict:
    return {"seed": seed, "implementation": implementation, "points": points(*accuracies)}


def test_crossing_is_the_first_point_at_the_target():
    curve = points(0.3, 0.79, 0.8, 0.7, 0.9)
    assert crossing(curve, 0.8) == curve[2]  # not interpolated, and not taken back by the dip
    assert crossing(curve, 0.2) == curve[0]
    assert crossing(curve, 0.95) is None


def test_report_compares_the_medians():
    runs = [run(0, TRL, 0.3, 0.5, 0.9), run(0, OURS, 0.3, 0.9), run(1, OURS, 0.2, 0.85), run(1, TRL, 0.2, 0.6, 0.8)]
    lines = report(runs, 0.8).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:-2]]
    assert cells == [
        ["0", OURS, "2", "10.0", "512", "0.900"],
        ["0", TRL, "4", "20.0", "1024", "0.900"],
        ["1", OURS, "2", "10.0", "512", "0.850"],
        ["1", TRL, "4", "20.0", "1024", "0.800"],
        ["median", OURS, "", "10.0", "", ""],
        ["median", TRL, "", "20.0", "", ""],
    ]
    assert "2.00 times" in lines[-1]


def test_report_of_a_run_that_stays_below():
    text = report([run(0, OURS, 0.3, 0.9), run(0, TRL, 0.3, 0.6, 0.5)], 0.8)
    assert "not reached" in text
    assert "0.600 at best" in text
    assert "times" not in text


def test_sides_must_start_alike():
    with pytest.raises(SystemExit, match="seed 0"):
        check_same_start([run(0, OURS, 0.3), run(0, TRL, 0.31), run(1, OURS, 0.2), run(1, TRL, 0.2)])
