"""Stop and resume: `kill -9` at some moment, continue, and end with the same weights, bit for bit."""

import json
import re
import shutil
import signal
import time

import pytest
import torch
from conftest import tiny
from runs import (
    SMALL,
    assert_same_weights,
    command,
    config,
    ends_with,
    finish,
    own_reward,
    resume,
    run,
    wait_for,
)

from dapo_lightning.callbacks.checkpoint import AtomicCheckpointIO
from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.data import DataError
from dapo_lightning.policy import PolicyError
from dapo_lightning.run.command import as_dict, load_resumed
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.folder import save_config
from dapo_lightning.utils.checkpoints import latest, steps_done

# There are ten train prompts, so this runs across epochs.
RUN = [*SMALL, "num_steps=8", "callbacks.checkpoint.every=2", "evaluation.every=3", "kl=k3"]


def kill_at(process, folder, step):
    """SIGKILL once metrics.csv has a row for `step`."""
    deadline = time.time() + 200
    while time.time() < deadline:
        if (folder / "metrics.csv").exists() and read_metrics(folder / "metrics.csv")[-1]["step"] >= step:
            process.kill()
            process.communicate()
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    raise AssertionError("the run made no progress")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return run(tmp_path_factory.mktemp("resume") / "straight", *RUN)


@pytest.mark.parametrize("step", [1, 5])
def test_killed_and_resumed_equals_straight_bit_for_bit(straight, tmp_path, step):
    folder = tmp_path / "killed"
    first = command(folder, *RUN)
    kill_at(first, folder, step + 2)
    reached = latest(folder / "checkpoints")
    assert reached is not None
    finish(command(folder, f"resume={folder}"))
    assert_same_weights(straight, folder)

    ours, theirs = read_metrics(folder / "metrics.csv"), read_metrics(straight / "metrics.csv")
    timing = re.compile(r"second|memory")
    for one, other in zip(ours, theirs, strict=True):
        assert {k: v for k, v in one.items() if not timing.search(k)} == {
            k: v for k, v in other.items() if not timing.search(k)
        }
    rollouts = [{path.name: path.read_bytes() for path in (f / "rollouts").iterdir()} for f in (straight, folder)]
    assert rollouts[0] == rollouts[1] and len(rollouts[0]) == 8
    before, after = (json.loads((f / "summary.json").read_text()) for f in (straight, folder))
    for name in ("before", "after", "evaluations", "dapo_steps", "gradient_steps", "tokens", "useful_group_share"):
        assert before[name] == after[name], name


def test_killed_twice_finished_and_given_more_steps(straight, tmp_path, monkeypatch, capsys):
    folder, moved = tmp_path / "killed", tmp_path / "moved"
    kill_at(command(folder, *[o for o in RUN if o != "num_steps=8"], "num_steps=6"), folder, 3)
    kill_at(command(folder, f"resume={folder}"), folder, 5)
    (folder / "rollouts/step_000006.partial").write_bytes(b"PAR1")  # a kill in the middle of a file
    for _ in range(2):  # the second time, nothing is left to do
        assert ends_with(monkeypatch, f"resume={folder}", *own_reward(folder)) == ""
        assert "6 DAPO steps" in capsys.readouterr().out
    folder.rename(moved)
    assert ends_with(monkeypatch, f"resume={moved}", "num_steps=8", *own_reward(moved)) == ""
    assert "8 DAPO steps" in capsys.readouterr().out
    assert_same_weights(straight, moved)
    assert [row["step"] for row in read_metrics(moved / "metrics.csv")] == list(range(9))
    assert not folder.exists()


def test_a_closed_terminal_saves_the_step(tmp_path):
    """The signal is SIGHUP."""
    folder = tmp_path / "run"
    process = command(folder, *RUN, "num_steps=100", "callbacks.checkpoint.every=100")
    wait_for(
        lambda: (folder / "metrics.csv").exists() and read_metrics(folder / "metrics.csv")[-1]["step"] > 1, process
    )
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGHUP and "stopped by SIGHUP" in output, output
    assert steps_done(latest(folder / "checkpoints")) == read_metrics(folder / "metrics.csv")[-1]["step"]
    assert f"can be continued with resume={folder} reward=function reward.path=rewards.even_length" in output


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])  # old log-probs as recorded, or recomputed
def test_carried_groups_are_in_the_checkpoint(tmp_path, precision):
    carry = ("sampling.surplus=carry", f"trainer.precision={precision}", "max_new_tokens=40", "evaluation.every=4")
    straight, stopped = run(tmp_path / "straight", *carry), run(tmp_path / "stopped", *carry, "num_steps=2")
    resume(stopped, "num_steps=4")
    assert_same_weights(straight, stopped)
    shares = [[row.get("groups/carried") for row in read_metrics(f / "metrics.csv")] for f in (straight, stopped)]
    assert shares[0] == shares[1] and shares[0][3] > 0  # in the first step after the checkpoint


def test_groups_in_flight_are_in_the_checkpoint(tmp_path):
    long = ("max_new_tokens=160", "num_completions_per_prompt=2", "evaluation.every=5", "evaluation.max_new_tokens=4")
    partial = (*long, "sampling.surplus=carry", "sampling.partial=60", "num_prompts_per_step=2")
    straight = run(tmp_path / "straight", *partial, "num_steps=2")
    stopped = run(tmp_path / "stopped", *partial, "num_steps=1")
    resume(stopped, "num_steps=2")
    assert_same_weights(straight, stopped)
    names = ("sampling/in_flight", "sampling/partial_share", "sampling/rounds", "length/mean", "loss")
    rows = [[[row.get(name) for name in names] for row in read_metrics(f / "metrics.csv")] for f in (straight, stopped)]
    assert rows[0] == rows[1]
    assert rows[0][1][0] > 0 and rows[0][2][1] > 0  # at the checkpoint, and in the step after it


@pytest.mark.parametrize("change", ["fewer", "column", "held_out", None])
def test_a_run_goes_on_only_with_the_prompts_that_it_began_with(tmp_path, change):
    rows = [{"prompt": f"{i}+1=", "answer": str(i + 1), "level": 1} for i in range(6)]

    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    train, held_out = write("train.jsonl", rows), write("held_out.jsonl", rows[:2])
    data = ("data=jsonl", f"data.train_path={train}", f"data.validation_path={held_out}", "evaluation.num_prompts=null")
    folder = run(tmp_path / "run", *data, "num_steps=1", "sampling=static")
    if change == "held_out":
        write("held_out.jsonl", rows[1:3])
    elif change:
        write("train.jsonl", rows[:5] if change == "fewer" else [*rows[:5], rows[5] | {"level": 2}])
    if change is None:
        resume(folder, "num_steps=2")
        return
    then, now = ("2", "2") if change == "held_out" else ("6", "5" if change == "fewer" else "6")
    says = rf"resume: the (train|held-out) prompts have changed.*before: {then} prompts, .*now: {now} prompts"
    with pytest.raises(DataError, match=says):
        resume(folder, "num_steps=2")


def test_a_run_goes_on_only_with_the_policy_that_it_began_with(straight, tmp_path):
    base = shutil.copytree(straight / "policy", tmp_path / "base")
    hub = ("policy=hub", f"policy.name={base}", "policy.chat=false", "kl=k3", "num_steps=1", "sampling=static")
    folder = run(tmp_path / "run", *hub)
    resume(folder, "num_steps=2")
    tiny(seed=7).save(base)
    with pytest.raises(PolicyError, match=r"resume: the .*weights of the policy have changed"):
        resume(folder, "num_steps=3")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("clip.upper=1.3", "clip.upper=1.3 would have no effect"),
        ("resume=nowhere", "nowhere"),
        ("num_steps=3", "already holds 8"),
    ],
)
def test_what_resume_cannot_honour_is_refused(straight, override, says, monkeypatch):
    overrides = [override] if override.startswith("resume") else [f"resume={straight}", override]
    said = ends_with(monkeypatch, *overrides, *own_reward(straight))
    assert said.startswith("error: ") and says in said


def test_the_advice_fits_every_policy(tmp_path):
    """policy=tiny alone has a warm_start."""
    (tmp_path / "checkpoints").mkdir()
    torch.save({}, tmp_path / "checkpoints" / "step_000001.ckpt")
    origin = {"choices": {}, "overrides": [], "commits": []}
    save_config(as_dict(config(f"run_folder={tmp_path}")) | origin, tmp_path)
    with pytest.raises(ConfigError, match=r"policy=hub policy\.name=<run folder>/policy"):
        load_resumed(config(f"resume={tmp_path}", "clip.upper=1.3"))


def test_a_mistyped_folder_is_not_made(tmp_path, monkeypatch):
    (tmp_path / "no_run").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("typo", "no_run"):
        said = ends_with(monkeypatch, f"resume={name}")
        assert said.startswith(f"error: resume={name}: holds no config.yaml with a checkpoint.")
    assert [path.name for path in tmp_path.rglob("*")] == ["no_run"]


def test_a_kill_during_the_write_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    writer, path = AtomicCheckpointIO(), tmp_path / "step_000001.ckpt"
    writer.save_checkpoint({"value": 1}, path)

    def dies_half_way(checkpoint, file):
        file.write_bytes(b"half a checkpoint")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies_half_way)
    for target in (path, tmp_path / "step_000002.ckpt"):
        with pytest.raises(KeyboardInterrupt):
            writer.save_checkpoint({"value": 2}, target)
    assert latest(tmp_path) == path
    assert torch.load(path) == {"value": 1}
