"""`python train.py -m`: every combination is a run of its own, with its own folder."""

import json

from omegaconf import OmegaConf
from runs import SMALL, command


def test_a_sweep_leaves_a_summary_for_every_combination(tmp_path):
    sweep = tmp_path / "sweep"
    small = [override for override in SMALL if not override.startswith("num_steps")]
    process = command(sweep, "-m", *small, "num_steps=2", "clip.upper=1.2,1.28", f"hydra.sweep.dir={sweep}")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    summaries = sorted(sweep.glob("*/summary.json"))
    assert [json.loads(path.read_text())["dapo_steps"] for path in summaries] == [2, 2]
    assert {OmegaConf.load(path.parent / "config.yaml").clip.upper for path in summaries} == {1.2, 1.28}


def test_bad_configuration_ends_with_one_sentence(tmp_path):
    process = command(tmp_path / "run", "clip.upper=0.28")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 1 and "error: " in output and "clip.upper=1.28" in output and "Traceback" not in output
    process = command(tmp_path / "run", "clip=unknown")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 1 and "higher" in output and "symmetric" in output
