"""Two processes train what one process trains."""

import json

import pytest
from conftest import tiny
from runs import SMALL, command, weights

from dapo_lightning.ranks import Ranks

RUN = [*SMALL, "num_steps=3", "evaluation.every=3", "num_prompts_per_step=8", "data.num_train=40", "max_new_tokens=60"]


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


@pytest.mark.parametrize(
    "overrides",
    [
        ["sampling=static", "loss=token_level"],
        [
            "sampling=dynamic",
            "loss=token_level_per_prompt",
        ],  # ranks yield unequal numbers of useful groups
        ["sampling=dynamic", "loss=sample_level"],
        ["sampling=static", "loss=blend", "kl=k3", "overlong=filter"],  # the ranks have unequal numbers of rows
    ],
    ids=" ".join,
)
def test_two_processes_equal_one(tmp_path, overrides):
    small = [o for o in RUN if "overlong=filter" not in overrides or not o.startswith("overlong.")]
    overrides = [*small, *overrides]
    finish(command(tmp_path / "one", *overrides))
    finish(command(tmp_path / "two", *overrides, "trainer=ddp_cpu"))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    moved = max(float((one[name] - start).abs().max()) for name, start in tiny(seed=0).model.state_dict().items())
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    # Sums in another order; Adam turns relative differences of tiny gradients into absolute ones of its step (1e-3).
    assert apart < 0.01 * moved, (apart, moved)
    for name in ("before", "after", "tokens", "gradient_steps", "useful_group_share"):
        ours, theirs = (json.loads((tmp_path / f / "summary.json").read_text())[name] for f in ("one", "two"))
        assert ours == pytest.approx(theirs, rel=1e-4), name


def test_shares_cover_everything_once():
    shares = [Ranks(rank, 3).mine(range(10)) for rank in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(10))
    assert Ranks().gather([1, 2]) == [1, 2] and Ranks().max(3) == 3
