"""Weights or logits that are not finite end a run; nothing is drawn from them in silence."""

import pytest
import torch

from dapo_lightning.draws.worker import RolloutWorker
from dapo_lightning.reward.exact import Exact
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.rollout.finite import NotFiniteError
from dapo_lightning.rollout.hf_generate import HFGenerate
from dapo_lightning.rollout.sample import sample_tokens
from dapo_lightning.types import Generation, NumberedPrompt, Prompt

INF, NAN = float("inf"), float("nan")
GENERATIONS = [Generation(4), Generation(4, top_p=0.7)]
PROMPTS = [NumberedPrompt(n, Prompt(f"{n}+1=", str(n + 1), f"test:{n}")) for n in range(2)]


@pytest.mark.parametrize("top_p", [1.0, 0.7])
@pytest.mark.parametrize("bad", [[NAN, 0, 0], [NAN] * 3, [-INF] * 3, [INF, 0, 0], [1e38, 0, 0]])
def test_a_row_that_is_not_finite_is_marked_and_leaves_the_others_alone(bad, top_p):
    good = [0.0, 1.0, -INF]
    logits, noise = torch.tensor([good, bad, good]), torch.tensor([0.1, 0.5, 0.9])
    tokens, logps, _ = sample_tokens(logits, noise, 1e-3 if 1e38 in bad else 1.0, top_p)
    assert 0 <= tokens[1] < 3
    assert logps[1].isnan() and logps[[0, 2]].isfinite().all()


@pytest.mark.parametrize("rollout", [Decode(), HFGenerate()], ids=["decode", "transformers"])
@pytest.mark.parametrize("generation", GENERATIONS, ids=["whole", "nucleus"])
def test_nothing_is_sampled_from_ruined_weights(policy, rollout, generation):
    worker = RolloutWorker(policy, rollout, Exact("="), seed=0)
    name, weight = next(iter(policy.model.named_parameters()))
    with torch.no_grad():
        weight.fill_(NAN)
    with pytest.raises(
        NotFiniteError, match=rf"1 of the policy's 20 weight tensors are not finite \(for example, {name}"
    ):
        worker(PROMPTS, 2, generation, "validation")


@pytest.mark.parametrize("rollout", [Decode(), HFGenerate()], ids=["decode", "transformers"])
@pytest.mark.parametrize("generation", GENERATIONS, ids=["whole", "nucleus"])
def test_finite_weights_with_infinite_logits_are_told_apart(policy, rollout, generation):
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(100)  # and the head, which is tied to it
        policy.model.model.norm.weight.fill_(3e38)
    with pytest.raises(NotFiniteError, match=r"test:0: the policy's weights are finite, but its logits are not"):
        RolloutWorker(policy, rollout, Exact("="), seed=0)(PROMPTS, 2, generation, "validation")
