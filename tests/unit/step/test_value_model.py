"""The critic: a value for each state, an exact loss, and several passes over a rollout."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import algorithm, batch_of, make_group, mini_batch, tiny

from dapo_lightning.algorithm.critic import ValueModel
from dapo_lightning.forward.logprobs import completion_values
from dapo_lightning.policy import Policy
from dapo_lightning.policy.lora import Lora
from dapo_lightning.policy.value_model import value_model
from dapo_lightning.step.critic import CriticHost
from dapo_lightning.step.experience import advantages, placeholder, shuffles, split

GROUPS = [make_group(0, [1, -1, 1], [2, 9, 4]), make_group(1, [-1, -1, 1], [12, 1, 7])]


@pytest.fixture
def critic():
    """A critic with a random head."""
    made = value_model(tiny(seed=1))
    torch.nn.init.normal_(made.model.get_output_embeddings().weight, generator=torch.Generator().manual_seed(0))
    return made


def test_the_critic_begins_with_the_policy_s_weights_and_with_values_of_zero():
    policy = tiny(seed=1)
    made = value_model(policy)
    assert torch.equal(made.model.model.layers[0].mlp.up_proj.weight, policy.model.model.layers[0].mlp.up_proj.weight)
    assert not {w.data_ptr() for w in made.model.parameters()} & {w.data_ptr() for w in policy.model.parameters()}
    assert not completion_values(made.model, [(5, 6)], [torch.tensor([7, 8])]).any()
    assert policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight


@pytest.mark.parametrize("recomputes", [False, True])
def test_the_critic_recomputes_activations_if_the_policy_does(recomputes):
    policy = tiny(seed=1)
    made = value_model(Policy(policy.model, policy.codec, recomputes=recomputes))
    assert made.recomputes == recomputes


def test_frozen_weights_are_shared_with_the_policy():
    policy = tiny(seed=1)
    policy.model.requires_grad_(False)
    made = value_model(policy)
    own = {id(weight) for weight in policy.model.parameters()}
    assert {name for name, weight in made.model.named_parameters() if id(weight) not in own} == {
        "lm_head.weight",
        "lm_head.bias",
    }


def test_with_lora_the_critic_trains_adapters_and_a_head_of_its_own():
    pytest.importorskip("peft")
    plain = tiny(seed=1)
    policy = Lora(rank=2).attach(plain.model, plain.codec)
    made = value_model(policy)
    frozen = {id(weight) for weight in policy.model.parameters() if not weight.requires_grad}
    own = {name: weight for name, weight in made.model.named_parameters() if id(weight) not in frozen}
    assert all(weight.requires_grad and ("lora_" in name or "lm_head" in name) for name, weight in own.items())
    assert not {id(weight) for weight in policy.model.parameters()} & {id(weight) for weight in own.values()}
    torch.nn.init.ones_(made.model.get_output_embeddings().weight)
    completion_values(made.model, [(5, 6)], [torch.tensor([7, 8])]).sum().backward()
    assert any(weight.grad.any() for name, weight in own.items() if "lora_" in name)
    assert all(weight.grad is None for weight in policy.model.parameters())


def test_a_value_is_that_of_the_tokens_before(critic):
    """Whether rows share prompts or not, packed or padded."""
    prompts = [group.prompt_tokens for group in GROUPS for _ in range(3)]
    written = [t.tokens_T for group in GROUPS for t in group.trajectories]
    with torch.no_grad():
        found = completion_values(critic.model, prompts, written)
        critic.model.set_attn_implementation("sdpa")
        padded = completion_values(critic.model, prompts, written)
        for b, (prompt, tokens) in enumerate(zip(prompts, written, strict=True)):
            for t in range(len(tokens)):
                seen = torch.tensor([[*prompt, *tokens[:t].tolist()]])
                assert found[b, t].item() == pytest.approx(critic.model(seen).logits[0, -1].item(), abs=1e-5)
            assert not found[b, len(tokens) :].any()
    torch.testing.assert_close(found, padded, atol=1e-5, rtol=0)


def test_the_loss_does_not_depend_on_micro_batches(critic):
    generator = torch.Generator().manual_seed(0)
    batch = mini_batch(GROUPS, algorithm())
    rows = [
        replace(
            row,
            trajectory=replace(
                row.trajectory,
                values_T=torch.randn(len(row.trajectory.tokens_T), generator=generator),
                returns_T=torch.randn(len(row.trajectory.tokens_T), generator=generator),
            ),
        )
        for row in batch.rows
    ]

    def gradient(max_tokens):
        critic.model.zero_grad()
        host, total = CriticHost(critic, 1.0, max_tokens, True), 0.0
        for part in [*host.micro_batches(rows), [placeholder(1)]]:
            loss, _ = host.loss(part, ValueModel(1e-4, clip=0.5), batch.num_tokens)
            loss.backward()
            total += loss.item()
        return torch.cat([weight.grad.flatten() for weight in critic.model.parameters()]), total

    expected, whole = gradient(10_000)
    for max_tokens in (1, 15, 40):
        found, loss = gradient(max_tokens)
        assert loss == pytest.approx(whole, rel=1e-5)
        torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_each_further_pass_over_a_rollout_has_an_order_of_its_own():
    first, second, third = shuffles(3, 8, seed=0, step=5)
    assert list(first) == list(range(8)) and sorted(second) == sorted(third) == list(range(8))
    assert second not in (list(first), third) and shuffles(3, 8, 0, 5)[1:] == [second, third]
    assert shuffles(2, 8, 0, 6)[1] != second and shuffles(2, 8, 1, 5)[1] != second


def test_a_shuffled_pass_trains_on_the_same_rows_in_other_mini_batches():
    groups = [make_group(n, [1, -1]) for n in range(4)]
    options, batch = algorithm(), batch_of(groups)
    found = advantages(batch.scores_PG(), batch.groups, options)
    passes = [split(batch, found, options, 2, orders=orders) for orders in (None, [[2, 0, 3, 1]])]
    contents = [[{id(row.trajectory) for row in m.rows} for m in one] for one in passes]
    assert contents[0] != contents[1]
    rows = [Counter(tuple(row.advantages.tolist()) for m in one for row in m.rows) for one in passes]
    assert rows[0] == rows[1] and set.union(*contents[0]) == set.union(*contents[1])
