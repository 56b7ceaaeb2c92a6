"""`--against`: accuracy at equal steps, tokens and minutes, and stability, worked out by hand."""

from __future__ import annotations

import pytest
from sweeps import write_run

from dapo_lightning.study.__main__ import main

pytestmark = pytest.mark.usefixtures("undrawn")


def write_sweep(sweep) -> None:
    """GRPO rises from 0.2 to 0.5, with 1000 tokens and 6 s a step; on seed 1, it stays there and loses its entropy.
    DAPO rises to 0.8 with twice the tokens, and with 0.2 more on seed 1 than GRPO."""
    for seed in (0, 1):
        stays = seed == 1
        write_run(
            sweep / f"grpo_{seed}", "grpo", seed, ["evaluation.every=10"], num_steps=10,
            accuracy=lambda step, stays=stays: 0.2 if stays else 0.2 + 0.03 * step,
            entropy=lambda step, stays=stays: 0.1 if stays and step > 5 else 1.0, tokens__generated=lambda step: 1000.0,
            seconds__generate=lambda step: 4.0, seconds__grade=lambda step: 0.0, seconds__update=lambda step: 2.0,
        )  # fmt: skip
        write_run(
            sweep / f"dapo_{seed}", "dapo", seed, ["evaluation.every=10"], num_steps=10,
            accuracy=lambda step, stays=stays: 0.2 + (0.02 if stays else 0.06) * step, entropy=lambda step: 0.5,
            tokens__generated=lambda step: 2000.0, seconds__generate=lambda step: 1.0,
            seconds__grade=lambda step: 0.0, seconds__update=lambda step: 2.0,
            memory__peak_mb=lambda step: 700.0 + step,
        )  # fmt: skip


def rows_of(text: str, experiment: str) -> list[list[str]]:
    lines = text.partition("## Against grpo")[2].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith(f"| {experiment}")]


def test_comparison_worked_by_hand(tmp_path, capsys):
    """Differences at the end: 0.3 and 0.2, so 0.25 ± 12.706 * 0.0707 / sqrt(2) = 0.635. With GRPO's 10 thousand tokens,
    DAPO is halfway: 0.5 and 0.3, which differ by 0.0 and 0.1. After GRPO's minute, DAPO has ended, after 30 s."""
    write_sweep(tmp_path)
    assert main([str(tmp_path), "--against", "grpo"]) == 0
    text = capsys.readouterr().out
    assert "at 10 thousand tokens" in text and "at 1.00 minutes" in text
    accuracy, stability = rows_of(text, "dapo")
    assert accuracy[2:4] == ["0.600 ± 2.541", "+0.250 ± 0.635"]
    assert [cell.partition(" ")[0] for cell in accuracy[4:]] == [
        "0.400",
        "+0.125",
        "0.400",
        "+0.050",
        "0.600",
        "+0.250",
    ]
    assert stability[1:] == ["0.400", "0.800", "2 of 2", "0 of 2", "0.500", "0.500 ± 0.000", "20", "0.50", "710"]
    accuracy, stability = rows_of(text, "grpo")
    assert accuracy[3] == "" and stability[1:5] == ["0.200", "0.500", "1 of 2", "1 of 2"]


def test_without_a_single_baseline(tmp_path, capsys):
    write_run(tmp_path / "dapo", "dapo", num_steps=10)
    assert main([str(tmp_path), "--against", "grpo"]) == 2
    assert "--against grpo: needs exactly one variant of it with finished runs" in capsys.readouterr().err
