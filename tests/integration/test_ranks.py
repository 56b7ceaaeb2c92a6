"""Several processes train what one process trains, whether each holds the whole policy or a part of it."""

import shutil

import pytest
from compare import assert_the_same
from conftest import tiny
from on_ranks import RUN, SHARDED, SPLIT, THREE
from runs import SMALL, command, finish, run
from torch.distributed.checkpoint import HuggingFaceStorageReader

from dapo_lightning.callbacks.checkpoint import AtomicCheckpointIO
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.shards import ShardsError
from dapo_lightning.utils.checkpoints import damage, latest

MARKS = ["entropy=top_tokens", "clip=clip_cov", "clip.share=0.2", "clip.lower_covariance=0"]  # look beyond a rank


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one process makes of dynamic sampling (ranks yield unequal numbers of useful groups) and a KL penalty."""
    return run(tmp_path_factory.mktemp("ranks") / "one", *RUN, *SPLIT)


@pytest.mark.parametrize(
    "trainer", [[*SHARDED[:2], *THREE], ["trainer=ddp_cpu", *THREE]], ids=["three, sharded", "three"]
)
def test_three_processes_equal_one(one, tmp_path, trainer):
    finish(command(tmp_path / "run", *RUN, *SPLIT, *trainer))
    assert_the_same(one, tmp_path / "run")


def test_sharded_adapters_equal_whole_ones_and_are_resumed_on_another_number_of_ranks(tmp_path):
    """With the adapters switched off, the sharded policy is its own reference."""
    tiny(seed=0).save(tmp_path / "base")
    kept = [o for o in RUN if not o.startswith(("policy.", "num_steps", "num_prompts_per_step", "callbacks"))]
    lora = [*kept, "policy=lora", f"policy.name={tmp_path / 'base'}", "policy.chat=false", "policy.lora.rank=4",
            "kl=k3", "num_prompts_per_step=12", "callbacks.completions=null"]  # fmt: skip
    run(tmp_path / "one", *lora, "num_steps=2")
    folder = tmp_path / "run"
    finish(command(folder, *lora, "num_steps=1", *SHARDED, "trainer.activation_checkpointing=true"))
    names = HuggingFaceStorageReader(str(latest(folder / "checkpoints"))).read_metadata().state_dict_metadata
    assert names and all("lora_" in name for name in names)
    finish(command(folder, f"resume={folder}", "num_steps=2", *SHARDED[:2], *THREE))
    assert_the_same(tmp_path / "one", folder)

    whole = shutil.copytree(latest(folder / "checkpoints"), tmp_path / "step_000009.ckpt")
    first = min(whole.glob("*.safetensors"))
    shutil.copy(first, whole / "a.safetensors")
    assert "a.safetensors does not belong to it" in damage(whole)
    (whole / "a.safetensors").unlink()
    assert damage(whole) is None
    first.unlink()
    assert f"{first.name} is missing" in damage(whole)
    with pytest.raises(ShardsError, match=r"parts of .* are missing"):
        AtomicCheckpointIO().load_checkpoint(whole, weights_only=True)


@pytest.mark.parametrize(
    "overrides",
    [
        ["sampling=static", "loss=token_level"],
        ["sampling=dynamic", "loss=token_level_per_prompt"],  # ranks yield unequal numbers of useful groups
        ["sampling=dynamic", "loss=sample_level", "advantage=reinforce_pp", *MARKS],
        ["sampling=static", "loss=blend", "kl=k3", "overlong=filter"],  # the ranks have unequal numbers of rows
    ],
    ids=" ".join,
)
def test_two_processes_equal_one(tmp_path, overrides):
    small = [o for o in RUN if "overlong=filter" not in overrides or not o.startswith("overlong.")]
    overrides = [*small, *overrides]
    run(tmp_path / "one", *overrides)
    finish(command(tmp_path / "two", *overrides, "trainer=ddp_cpu"))
    assert_the_same(tmp_path / "one", tmp_path / "two")


def test_a_rank_without_held_out_prompts_waits_for_the_others(tmp_path):
    few = ["evaluation.num_prompts=1", "num_steps=1", "num_completions_per_prompt=4"]
    run(tmp_path / "one", *SMALL, *few)
    finish(command(tmp_path / "two", *SMALL, *few, *SHARDED))
    assert_the_same(tmp_path / "one", tmp_path / "two")


def test_shares_cover_everything_once():
    shares = [Ranks(rank, 3).mine(range(10)) for rank in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(10))
    assert Ranks().gather([1, 2]) == [1, 2] and Ranks().max(3) == 3
