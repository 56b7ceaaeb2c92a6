"""A short recorded run: a change that moves these numbers changes results, and has to say so."""

import pytest
from runs import run

from dapo_lightning.callbacks.metrics_file import read_metrics

NAMES = ("reward/mean", "length/mean", "entropy", "loss", "gradient/norm", "ratio/max", "kl/old")
RECORDED = [
    (-0.791667, 36.4167, 5.34267, 0.0165286, 0.723264, 1.10004, 4.33667e-4),
    (-0.958333, 35.0000, 5.34226, 0.0627583, 0.628985, 1.25099, 1.86057e-3),
    (-0.875000, 37.6250, 5.34282, 0.0655871, 0.555461, 1.18051, 6.23690e-4),
    (-1.000000, 35.6667, 5.34300, 0.0821698, 0.538866, 1.17207, 6.21437e-4),
]


def test_recorded_trajectory(tmp_path):
    folder = run(tmp_path / "run", "max_new_tokens=40", "num_steps=4", "kl=k3", "loss=token_level", "optimizer.lr=3e-3")
    rows = [row for row in read_metrics(folder / "metrics.csv") if row["step"] > 0]
    found = [tuple(row[name] for name in NAMES) for row in rows]
    for ours, recorded in zip(found, RECORDED, strict=True):
        assert ours == pytest.approx(recorded, rel=2e-3, abs=2e-5)
