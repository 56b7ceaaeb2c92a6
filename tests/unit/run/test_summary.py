"""What a run shows and leaves at its end."""

from __future__ import annotations

import sys

import pytest

from dapo_lightning.run.curves import draw_curves
from dapo_lightning.run.summary import as_text, held_out_table
from dapo_lightning.utils.table import number


@pytest.mark.parametrize("swap", [False, True])
def test_what_one_evaluation_lacks_is_a_dash_in_the_table(swap):
    """No completion had an answer to vote with, or a single prompt was evaluated."""
    evaluations = {
        "before": {"avg@2": 0.5, "length": 3.0},
        "after": {"avg@2": 1.0, "maj@2": 0.25, "length": 2.0, "avg@2_ci95": 0.125},
    }
    names = list(evaluations)[::-1] if swap else list(evaluations)
    header, *lines = held_out_table("held-out prompts", {name: evaluations[name] for name in names}).splitlines()
    cells = [["0.500", "1.000±0.125"], ["-", "0.250"], ["3.000", "2.000"]]
    expected = [row[::-1] if swap else row for row in cells]
    assert header.split() == ["held-out", "prompts", *names]
    assert [line.replace(" ± ", "±").split()[1:] for line in lines] == expected
    assert [line.split()[0] for line in lines] == ["avg@2", "maj@2", "length"]


def test_large_numbers_have_an_exponent():
    rewards = {"reward/mean": -1e300, "reward/mean_ci95": 2.5e9, "tokens": 123456789.0}
    (mean, _, half_width), (tokens,) = (
        line.split()[1:] for line in held_out_table("held-out", {"before": rewards}).splitlines()[1:]
    )
    assert (mean, half_width, tokens) == ("-1.000e+300", "2.500e+09", "123456789.000")
    assert number(1e300, "{:+.2f}") == "+1.000e+300" and number(0.5, "{:+.2f}") == "+0.50"


def test_text_names_the_files_that_exist(tmp_path):
    (tmp_path / "metrics.csv").touch()
    text = as_text(
        {
            "before": {"avg@2": 0.5}, "after": {"avg@2": 1.0}, "seconds": {"generate": 12.3}, "dapo_steps": 4,
            "gradient_steps": 8, "skipped_steps": 0, "useful_group_share": 0.25, "peak_memory_mb": 100.0,
            "tokens": {"generated": 12345, "trained": 678}, "run_folder": str(tmp_path),
            "evaluations": {"0": {"avg@2": 0.5}, "2": {"avg@2": 1.25}, "4": {"avg@2": 1.0}},
            "best": {"metric": "validation/avg@2", "step": 2}, "policy_step": 2, "warnings": ["entropy", "accuracy"],
        }
    )  # fmt: skip
    assert "before    after    best (step 2)" in text and "1.250" in text and "of step 2, the best" in text
    assert "warning          entropy" in text and " accuracy" in text
    assert "4 DAPO steps, 8 gradient steps, 0 skipped" in text and "12,345 generated" in text and "25%" in text
    assert str(tmp_path) in text and "metrics.csv" in text and "curves.png" not in text


def test_without_matplotlib_a_run_says_how_to_get_curves(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    draw_curves(tmp_path)
    assert 'pip install "dapo-lightning[study]"' in caplog.text and not (tmp_path / "curves.png").exists()
