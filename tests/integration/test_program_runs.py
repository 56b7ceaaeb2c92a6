"""A run whose completions are programs: they are run, graded and counted."""

import json

import pytest
from runs import run

from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.grading import sandbox
from dapo_lightning.programs import KINDS


@pytest.mark.skipif(sandbox.why_not() is not None, reason=str(sandbox.why_not()))
def test_a_run_on_programs_counts_what_became_of_each(tmp_path):
    data = ("data=list_programs", "data.num_train=10", "data.num_validation=8")
    folder = run(tmp_path / "run", *data, "reward=code", "reward.fenced=false", "sampling=static", "num_steps=1")
    (trained,) = [row for row in read_metrics(folder / "metrics.csv") if "loss" in row]
    counts = {kind: trained[f"programs/{kind}"] for kind in ("passed", *KINDS)}
    assert sum(counts.values()) == 16 and counts["syntax"] > 0 and trained["grading/error"] == 0
    rows = [json.loads(line) for line in (folder / "evaluation.jsonl").read_text().splitlines()]
    assert {completion["program"] for row in rows for completion in row["completions"]} <= {"passed", *KINDS}
