"""Runs stopped in every way we could think of: each leaves a usable checkpoint, and goes on to the same weights.

Takes minutes, and prints a table of what was done: `make test-chaos`.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from runs import SMALL, assert_same_weights, command, finish, wait_for

from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.utils.checkpoints import latest, steps_done

pytestmark = pytest.mark.chaos

NUM_STEPS, NUM_KILLS, SEED = 160, 20, 0  # steps enough for all kills on a fast machine
RUN = [*[o for o in SMALL if not o.startswith("num_steps")], f"num_steps={NUM_STEPS}", "evaluation.every=7"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos") / "straight"
    finish(command(folder, *RUN))
    return folder


def last_step(folder):
    return read_metrics(folder / "metrics.csv")[-1]["step"] if (folder / "metrics.csv").exists() else 0


def start_or_go_on(folder, *overrides):
    return command(folder, f"resume={folder}") if latest(folder / "checkpoints") else command(folder, *overrides)


def usable(folder):
    """The steps of the newest checkpoint, which is whole."""
    newest = latest(folder / "checkpoints")
    assert newest is not None
    assert torch.load(newest, weights_only=False)["history"]["dapo_steps"] == steps_done(newest)
    return steps_done(newest)


def test_sigkill_at_random_moments(straight, tmp_path, capsys):
    chance, folder, table = random.Random(SEED), tmp_path / "run", []
    for number in range(1, NUM_KILLS + 1):
        process = start_or_go_on(folder, *RUN)
        before = last_step(folder)
        goal = before + chance.choice([1, 1, 2, 3])
        wait_for(lambda goal=goal: last_step(folder) >= goal and latest(folder / "checkpoints"), process)
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.communicate()
        halves = [path.name for path in folder.rglob("*.partial")]
        table.append((number, before, last_step(folder), usable(folder), ", ".join(halves) or "-"))
        assert table[-1][2] < NUM_STEPS, "the run was over before the last kill: give it more steps"
    finish(start_or_go_on(folder))
    assert_same_weights(straight, folder)
    assert [row["step"] for row in read_metrics(folder / "metrics.csv")] == list(range(NUM_STEPS + 1))
    with capsys.disabled():
        print(f"\nSIGKILL {len(table)} times (seed {SEED}), then the same weights as without:")
        print("kill  began at  reached  checkpoint  half-written")
        for row in table:
            print("{:4}  {:8}  {:7}  {:10}  {}".format(*row))


def test_sigterm_saves_the_step_it_came_in(straight, tmp_path):
    folder = tmp_path / "run"
    process = command(folder, *RUN, "callbacks.checkpoint.every=50")
    wait_for(lambda: last_step(folder) >= 5, process)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and usable(folder) == last_step(folder) >= 5
    finish(command(folder, f"resume={folder}"))
    assert_same_weights(straight, folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk(straight, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    megabytes = 2.5 * max(path.stat().st_size for path in (straight / "checkpoints").iterdir()) / 2**20 + 0.25
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(megabytes * 1024)}k", "tmpfs", disk], check=True)
    try:
        folder = disk / "run"
        process = command(folder, *RUN)
        output, _ = process.communicate(timeout=200)
        assert process.returncode != 0 and "No space left on device" in output
        assert not list((folder / "checkpoints").glob("*.partial"))  # or there would be no room for the next try
        assert 0 < usable(folder) < NUM_STEPS
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        finish(command(folder, f"resume={folder}"))
        assert_same_weights(straight, folder)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_data_file_that_vanishes(tmp_path):
    rows = [{"prompt": f"{a}+{a}=", "answer": str(2 * a)} for a in range(12)]
    for name in ("train", "held_out"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["data=jsonl", f"data.train_path={tmp_path}/train.jsonl", f"data.validation_path={tmp_path}/held_out.jsonl"]
    run = [*[override for override in RUN if not override.startswith("data.")], *data, "evaluation.num_prompts=8"]
    finish(command(tmp_path / "straight", *run))
    folder = tmp_path / "run"
    process = command(folder, *run)
    wait_for(lambda: last_step(folder) >= 3, process)
    shutil.move(tmp_path / "train.jsonl", tmp_path / "elsewhere.jsonl")  # it has been read
    wait_for(lambda: last_step(folder) >= 6, process)
    process.kill()
    process.communicate()
    process = command(folder, f"resume={folder}")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and f"{tmp_path}/train.jsonl" in output and "Traceback" not in output
    shutil.move(tmp_path / "elsewhere.jsonl", tmp_path / "train.jsonl")
    finish(command(folder, f"resume={folder}"))
    assert_same_weights(tmp_path / "straight", folder)


def test_graders_that_are_killed_are_replaced(tmp_path):
    """Completions that were with them count as wrong, so weights differ; the run goes on, and can be resumed."""
    folder = tmp_path / "run"
    process = command(folder, *RUN)
    for goal in (3, 6, 9):
        wait_for(lambda goal=goal: last_step(folder) >= goal, process)
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
    process.terminate()
    process.communicate(timeout=60)
    assert usable(folder) >= 9
    finish(command(folder, f"resume={folder}"))
