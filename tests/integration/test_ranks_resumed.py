"""Runs on several processes that are interrupted, stopped or killed, and resumed on as many or on others."""

import os
import signal
import socket
from pathlib import Path

import pytest
from compare import assert_the_same
from on_ranks import ALONE, RUN, SHARDED, SPLIT
from runs import SMALL, command, finish, run, wait_for

from dapo_lightning.callbacks.checkpoint import AtomicCheckpointIO
from dapo_lightning.utils.checkpoints import latest, steps_done


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one process makes of dynamic sampling (ranks yield unequal numbers of useful groups) and a KL penalty."""
    return run(tmp_path_factory.mktemp("ranks") / "one", *RUN, *SPLIT)


@pytest.mark.parametrize(
    ("first", "then"),
    [(SHARDED, ALONE), ([], SHARDED), (["trainer=ddp_cpu"], SHARDED)],
    ids=["sharded, then one", "one, then sharded", "two, then sharded"],
)
def test_a_run_can_be_resumed_on_another_number_of_ranks(one, tmp_path, first, then):
    folder = tmp_path / "run"
    shorter = [override for override in RUN if not override.startswith("num_steps")]
    if first:
        finish(command(folder, *shorter, *SPLIT, "num_steps=2", *first))
    else:
        run(folder, *shorter, *SPLIT, "num_steps=2")
    is_damaged = first == SHARDED
    if is_damaged:
        part = sorted(latest(folder / "checkpoints").glob("*.safetensors"))[-1]
        content = bytearray(part.read_bytes())
        content[-1] ^= 1
        part.write_bytes(content)
    output = finish(command(folder, f"resume={folder}", "num_steps=3", *then))
    assert_the_same(one, folder)
    assert ("step_000002.ckpt is damaged (the checksum of shard-00002" in output) == is_damaged


FILTERED = ("overlong.cache_tokens=1", "sampling=static", "max_new_tokens=1")


def test_a_checkpoint_before_the_first_gradient_step_counts_no_step(tmp_path):
    """All completions are truncated and outside the loss."""
    one = [*SHARDED[:2], "trainer.devices=1", "evaluation.num_prompts=1", "num_steps=1"]
    finish(command(tmp_path / "run", *SMALL, *one, "overlong=punish_and_filter", *FILTERED))
    (saved,) = AtomicCheckpointIO().load_checkpoint(latest(tmp_path / "run/checkpoints"))["optimizer_states"]
    assert saved["state"] and all(state["step"] == 0 for state in saved["state"].values())


@pytest.mark.parametrize("victim", ["first", "second"])
def test_when_one_rank_dies_the_others_stop_and_the_run_can_be_resumed(tmp_path, victim):
    folder = tmp_path / "run"
    longer = [override for override in RUN if not override.startswith("num_steps")]
    first = command(folder, *longer, "num_steps=100", "trainer=ddp_cpu")
    wait_for(lambda: (folder / "checkpoints/step_000002.ckpt").exists(), seconds=120)
    second = int(Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()[0])
    os.kill(first.pid if victim == "first" else second, signal.SIGKILL)
    output, _ = first.communicate(timeout=60)  # ends when the last process that could write has ended
    assert first.returncode != 0
    if victim == "second":  # which dies with the first, without a word
        assert str(second) in output or "Connection" in output, output
    wait_for(lambda: not Path(f"/proc/{second}").exists(), seconds=60)
    one_more = f"num_steps={steps_done(latest(folder / 'checkpoints')) + 1}"
    finish(command(folder, f"resume={folder}", one_more, *ALONE))


def test_a_rank_ends_with_the_first_one_before_they_have_found_each_other(tmp_path):
    first = command(tmp_path / "run", *RUN, "trainer=ddp_cpu")
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children")
    wait_for(lambda: any(b"job.name=train_ddp" in cmdline(child) for child in children.read_text().split()), first, 300)
    second = next(child for child in children.read_text().split() if b"job.name=train_ddp" in cmdline(child))
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=60)
    wait_for(lambda: not Path(f"/proc/{second}").exists(), seconds=60)


def test_a_port_that_is_taken(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        first = command(tmp_path / "run", *RUN, "trainer=ddp_cpu")
        output, _ = first.communicate(timeout=300)  # ends when the last process that could write has ended
    assert first.returncode == 1 and "another program uses MASTER_PORT=" in output and "Traceback" not in output


def cmdline(process):
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("trainer", [["trainer=ddp_cpu"], SHARDED], ids=["two", "two, sharded"])
def test_ranks_that_are_told_to_stop_save_together(one, tmp_path, trainer):
    """One of them is enough, whatever the other is doing."""
    folder, longer = tmp_path / "run", [override for override in RUN if not override.startswith("num_steps")]
    overrides = [
        *longer,
        *SPLIT,
        "num_steps=3",
        "callbacks.checkpoint.every=100",
        *trainer,
    ]
    process = command(folder, *overrides)
    wait_for(lambda: (folder / "rollouts/step_000001_rank_1.parquet").exists(), process)
    second = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    os.kill(second, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "stopped by SIGTERM" in output, output
    assert 1 <= steps_done(latest(folder / "checkpoints")) < 3
    finish(command(folder, f"resume={folder}"))
    assert_the_same(one, folder)
