"""Completions at the edge of their budget: what is truncated, punished and filtered."""

import pytest
import torch

from dapo_lightning.algorithm.overlong import PunishAndFilter
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.rollout.hf_generate import HFGenerate
from dapo_lightning.rollout.noise import uniform_noise
from dapo_lightning.types import Generation, Trajectory

BUDGET, CACHE = 20, 4
OPTION = PunishAndFilter(BUDGET, CACHE)  # free up to 16 tokens
PROMPT, NOISE = (10, 11, 12), uniform_noise(4, "test", [0], 1, BUDGET)


def written(policy, rollout, end_token):
    ((completion,),) = [group for batch in rollout(policy.model, [PROMPT], NOISE, Generation(BUDGET), [end_token])
                        for group in batch]  # fmt: skip
    return Trajectory.of(completion, policy_step=0)


@pytest.mark.parametrize("rollout", [Decode(), HFGenerate()], ids=["decode", "transformers"])
@pytest.mark.parametrize(
    ("length", "penalty"),
    [(16, 0.0), (17, -0.25), (19, -0.75), (20, -1.0), (None, -1.0)],
    ids=["last free token", "first token in the cache", "one token below", "end token in the last place", "no end"],
)
def test_edges_of_the_budget(policy, rollout, length, penalty):
    endless = written(policy, Decode(), -1).tokens_T
    end = -1 if length is None else int(endless[length - 1])
    assert end not in endless[: (length or 1) - 1]
    trajectory = written(policy, rollout, end)
    num_tokens = torch.tensor([trajectory.num_tokens])
    assert trajectory.tokens_T.tolist() == endless[:length].tolist()
    assert trajectory.truncated is (length is None)
    assert OPTION.penalty(num_tokens).item() == penalty
    assert OPTION.loss_mask(torch.tensor([trajectory.truncated])).item() is (length is not None)
