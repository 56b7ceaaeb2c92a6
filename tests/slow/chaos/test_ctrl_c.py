"""Ctrl-C in a run of its own process."""

import json
import signal

import pytest
from runs import SMALL, command, finish, wait_for

from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.run.folder import finished_result, read_config
from dapo_lightning.utils.checkpoints import latest, steps_done

pytestmark = pytest.mark.chaos


def trained(folder):
    path = folder / "metrics.csv"
    return path.exists() and read_metrics(path)[-1]["step"] > 1


def test_ctrl_c_saves_and_reports(tmp_path):
    folder, long = tmp_path / "run", "num_steps=1000"
    process = command(folder, *SMALL[:-3], long, "callbacks.checkpoint.every=100", f"run_folder={folder}")
    wait_for(lambda: trained(folder), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGINT and "Ctrl-C once more ends the run at once" in output, output
    assert f"interrupted      by Ctrl-C; resume={folder} continues it" in output
    done = steps_done(latest(folder / "checkpoints"))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["dapo_steps"] == done == read_metrics(folder / "metrics.csv")[-1]["step"] and summary["interrupted"]
    assert (folder / "report.html").exists() and finished_result(read_config(folder) | {"run_folder": folder}) is None

    process = command(folder, f"resume={folder}")
    wait_for(lambda: read_metrics(folder / "metrics.csv")[-1]["step"] > done, process)
    while process.poll() is None:  # the second one ends it, in whatever it does
        process.send_signal(signal.SIGINT)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    assert f"{done + 3} DAPO steps" in finish(command(folder, f"resume={folder}", f"num_steps={done + 3}"))
