"""Runs of PPO: exact with every strategy and across interruptions, and refused where they would make no sense."""

import re
import shutil

import pytest
import torch
from compare import assert_the_same
from conftest import tiny
from runs import SMALL, assert_same_weights, command, config, finish, resume, run

from dapo_lightning.callbacks.checkpoint import AtomicCheckpointIO
from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.policy.hub import HubPolicy
from dapo_lightning.policy.lora import Lora
from dapo_lightning.run.checks import check, check_options
from dapo_lightning.run.command import as_dict
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.session import plan_run
from dapo_lightning.utils.checkpoints import all_checkpoints, latest, steps_done

PPO = (
    "module=ppo", "critic=value_model", "advantage=gae", "sampling=static", "critic.learning_rate=1e-3",
    "critic.pretraining_steps=1", "num_epochs=2", "kl=k1", "kl.coefficient=0.1", "kl.target=0.001", "data.num_train=40",
    "num_completions_per_prompt=2",
    "num_prompts_per_step=8", "max_new_tokens=20", "num_steps=3", "evaluation.every=3",
)  # fmt: skip


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """Overrides that choose a folder with adapters, which trainer=fsdp2 merges while it reads weights into shards."""
    folder = tmp_path_factory.mktemp("policy")
    tiny(seed=0).save(folder / "base")
    source = HubPolicy(str(folder / "base"), chat=False, lora=Lora(rank=4, save="adapter"))
    adapted, generator = source.load(source.codec(), None, None), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in adapted.model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    adapted.save(folder / "adapters")
    return "policy=hub", f"policy.name={folder / 'adapters'}", "policy.chat=false"


@pytest.fixture(scope="module")
def one(tmp_path_factory, policy):
    return run(tmp_path_factory.mktemp("ppo") / "one", *PPO, *policy)


def keep_only(folder, steps):
    """Removes all checkpoints but that of a step, as if the run had been interrupted after it."""
    for path in all_checkpoints(folder / "checkpoints"):
        if steps_done(path) != steps:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def critic_of(folder):
    checkpoint = AtomicCheckpointIO().load_checkpoint(latest(folder / "checkpoints"), weights_only=True)
    state = checkpoint["state_dict"]
    return {name: weight for name, weight in state.items() if name.startswith("critic.")}


def test_only_the_critic_is_trained_at_first_and_its_metrics_are_logged(one):
    _, first, second, third = read_metrics(one / "metrics.csv")
    assert first["gradient/norm"] == 0 < first["critic/gradient_norm"] and "ratio/mean" not in first
    assert first["critic/explained_variance"] == pytest.approx(0)  # all values are 0
    assert second["gradient/norm"] > 0 and second["critic/explained_variance"] != 0
    assert third["critic/loss"] < first["critic/loss"] and third["gradient/steps"] == 4
    assert 0 <= third["critic/clip_fraction"] < 1
    rates = [row["learning_rate"] for row in (first, second, third)]  # the two steps of warm-up come afterwards
    assert rates == [0, third["learning_rate"] / 2, third["learning_rate"]] and rates[1] > 0


@pytest.mark.parametrize("steps", [1, 2], ids=["after the pretraining", "later"])
def test_resumed_equals_straight_bit_for_bit(one, policy, tmp_path, steps):
    folder = run(tmp_path / "run", *PPO, *policy, "callbacks.checkpoint.keep=3")
    keep_only(folder, steps)
    resume(folder)
    assert_same_weights(one, folder)
    ours, theirs = critic_of(folder), critic_of(one)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


SHARDED = ("trainer=fsdp2", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.mark.parametrize("trainer", [("trainer=ddp_cpu",), SHARDED], ids=["two", "two, sharded"])
def test_two_processes_equal_one(one, policy, tmp_path, trainer):
    folder, small = tmp_path / "run", [override for override in SMALL if not override.startswith("policy.")]
    steps = 2 if trainer == SHARDED else 3  # then it is resumed
    finish(command(folder, *small, *PPO, *policy, *trainer, f"num_steps={steps}"))
    if trainer == SHARDED:
        finish(command(folder, f"resume={folder}", "num_steps=3"))
    assert_the_same(one, folder)
    ours, theirs = critic_of(folder), critic_of(one)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-4, rtol=0)


def test_a_penalty_in_the_reward_lowers_the_returns(one, policy, tmp_path):
    """In the first step the policy is its reference, and it is not trained, so the coefficient is adapted later."""
    folder = run(tmp_path / "run", *PPO, *policy, "kl.coefficient=1.0")
    ours, theirs = read_metrics(folder / "metrics.csv"), read_metrics(one / "metrics.csv")
    assert ours[1]["critic/return"] == pytest.approx(theirs[1]["critic/return"], abs=1e-5)
    assert ours[3]["critic/return"] != pytest.approx(theirs[3]["critic/return"], abs=1e-4)
    assert ours[2]["kl/coefficient"] == 1.0 != ours[3]["kl/coefficient"] and ours[2]["kl/reference"] != 0


def test_a_group_may_hold_a_single_completion(tmp_path):
    folder = run(tmp_path / "run", *PPO, "num_completions_per_prompt=1", "trainer.precision=bf16-mixed", "num_steps=2")
    assert read_metrics(folder / "metrics.csv")[-1]["gradient/norm"] > 0


def test_adapters_of_policy_and_critic_are_trained_and_resumed_bit_for_bit(tmp_path):
    tiny(seed=0).save(tmp_path / "base")
    lora = (*PPO, "policy=lora", f"policy.name={tmp_path / 'base'}", "policy.chat=false", "policy.lora.rank=4")
    one, folder = (run(tmp_path / name, *lora, "callbacks.checkpoint.keep=3") for name in ("one", "two"))
    keep_only(folder, steps=1)
    resume(folder)
    assert_same_weights(one, folder)
    ours, theirs = critic_of(folder), critic_of(one)
    assert any("lora_" in name for name in ours) and not any("base_layer" in name for name in ours)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    last = read_metrics(folder / "metrics.csv")[-1]
    assert last["gradient/norm"] > 0 < last["critic/gradient_norm"]


def test_conversations_of_several_turns(tmp_path):
    """GAE skips the messages that the policy reads between its turns."""
    options = ("wrong=no", "right=no", "max_turn_tokens=4", "max_message_tokens=4")
    turns = ("environment=self_correction", *(f"environment.{option}" for option in options))
    last = read_metrics(run(tmp_path / "run", *PPO, *turns) / "metrics.csv")[-1]
    assert last["turns/mean"] > 1 and last["gradient/norm"] > 0 < last["critic/gradient_norm"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["advantage=gae"], "advantage=gae needs module=ppo critic=value_model"),
        (["critic=value_model"], "critic=value_model needs module=ppo advantage=gae"),
        (["experiment=ppo", "critic=none"], "module=ppo needs critic=value_model"),
        (["experiment=ppo", "advantage=mean_centered"], "module=ppo needs advantage=gae"),
        (["experiment=ppo", "module=dapo"], "critic=value_model needs module=ppo"),
        (["kl=k3", "kl.place=reward"], "use experiment=ppo, or kl=k2 or kl=k3 with kl.place=loss"),
        (["kl=k1"], "use experiment=ppo, or kl=k2 or kl=k3 with kl.place=loss"),
        (["experiment=ppo", "sampling=dynamic", "num_completions_per_prompt=1"], "Use sampling=static"),
        (["advantage=leave_one_out_normalized", "num_completions_per_prompt=2"], "a group needs at least 3"),
        (
            ["experiment=ppo", "critic.pretraining_steps=5", "num_steps=5"],
            "critic.pretraining_steps=5 with num_steps=5",
        ),
    ],
    ids=" ".join,
)
def test_combinations_without_meaning_are_refused(overrides, says):
    settings = as_dict(config(*overrides, "run_folder=x"))
    check(settings)
    with pytest.raises(ConfigError, match=re.escape(says)):
        check_options(settings)
    with pytest.raises(ConfigError, match=re.escape(says)):
        plan_run(config(*overrides, "run_folder=x", "mode=plan"))
