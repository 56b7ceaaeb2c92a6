"""Truncated importance sampling between the sampler's log-probs and the old ones of a forward pass."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import algorithm, make_group, mini_batch, tiny
from runs import SMALL, config, run

from dapo_lightning.algorithm.correction import NoCorrection, Truncated
from dapo_lightning.algorithm.kl import K3
from dapo_lightning.algorithm.tokens import Tokens
from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.run.build import build
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.step.experience import placeholder
from dapo_lightning.step.objective import surrogate_loss

GROUPS = [make_group(0, [1, -1, 1], [2, 9, 4]), make_group(1, [-1, -1, 1], [12, 1, 7])]


def rows(gap, options):
    """Rows whose sampled log-probs lie within `gap` below and above the old ones."""
    generator = torch.Generator().manual_seed(5)
    for row in mini_batch(GROUPS, options).rows:
        sampled = row.trajectory.logps_T
        old = sampled + gap * (2 * torch.rand(len(sampled), generator=generator) - 1)
        yield replace(row, trajectory=replace(row.trajectory, old_logps_T=old), reference_logps_T=old - 0.2)


def loss_and_gradient(model, batch, options):
    model.zero_grad()
    loss, metrics = surrogate_loss(model, batch, options, temperature=0.8)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()]).clone(), metrics


def correct(option, old, sampled):
    return option(Tokens(old, old, sampled, old, torch.ones_like(old, dtype=torch.bool)))


def test_by_hand():
    # ratios old/sampled: 1, 1/2, 3/2, 4 -> the last is capped at 2
    sampled = torch.tensor([[0.5, 0.4, 0.2, 0.1]]).log()
    old = torch.tensor([[0.5, 0.2, 0.3, 0.4]]).log()
    found = correct(Truncated(2.0), old, sampled)
    torch.testing.assert_close(found.values_BT, torch.tensor([[1.0, 0.5, 1.5, 2.0]]))
    assert found.metrics["correction/capped_fraction"].values_BT.tolist() == [[0.0, 0.0, 0.0, 1.0]]
    nothing = correct(NoCorrection(), old, sampled)
    assert nothing.values_BT.tolist() == [[1.0] * 4] and not nothing.metrics


def test_without_a_cap_the_weights_average_to_one():
    """E_sampler[pi_old / pi_sampler] = 1; the cap takes off what exceeds it."""
    sampler, old = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.3, 0.3, 0.4]])
    uncapped = (sampler * correct(Truncated(math.inf), old.log(), sampler.log()).values_BT).sum()
    capped = (sampler * correct(Truncated(2.0), old.log(), sampler.log()).values_BT).sum()
    torch.testing.assert_close(uncapped, torch.tensor(1.0))
    torch.testing.assert_close(capped, torch.tensor(0.3 + 0.3 + 0.1 * 2))


def test_no_gradient_flows_through_the_weights():
    old, sampled = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    assert not correct(Truncated(2.0), old, sampled).values_BT.requires_grad


@pytest.mark.parametrize("cap", [0.5, 0.0, -1.0, math.nan])
def test_a_cap_below_one_is_refused(cap):
    with pytest.raises(ValueError, match=r"correction\.cap=.*correction=none"):
        Truncated(cap)


def test_the_loss_is_the_slow_obvious_loop():
    """min(r A, clip(r) A) times the weight, less the penalty, which is not weighted, for one token after another."""
    options, model = algorithm(correction=Truncated(1.3), kl=K3(0.1)), tiny(seed=1).model
    batch = list(rows(0.6, options))
    expected, weights = 0.0, []
    for row in batch:
        seen = list(row.prompt_tokens)
        old, reference, advantage = row.trajectory.old_logps_T, row.reference_logps_T, row.advantages.item()
        for t, token in enumerate(row.trajectory.tokens_T.tolist()):
            with torch.no_grad():
                logp = (model(torch.tensor([seen])).logits[0, -1] / 0.8).log_softmax(0)[token].item()
            ratio = math.exp(logp - old[t].item())
            weights.append(min(math.exp(old[t].item() - row.trajectory.logps_T[t].item()), 1.3))
            objective = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
            to_reference = reference[t].item() - logp
            penalty = 0.1 * (math.exp(to_reference) - to_reference - 1)
            expected -= row.weights.item() * (weights[-1] * objective - penalty)
            seen.append(token)
    loss, _, metrics = loss_and_gradient(model, batch, options)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert metrics["correction/mean"].total == pytest.approx(sum(weights), rel=1e-5)
    assert metrics["correction/capped_fraction"].total == sum(weight == 1.3 for weight in weights) > 0


def test_it_changes_its_own_term_and_no_other():
    model = tiny(seed=1).model
    for gap in (0.0, 0.6):
        batch = list(rows(gap, algorithm(kl=K3(0.1))))
        plain, plain_gradient, metrics = loss_and_gradient(model, batch, algorithm(kl=K3(0.1)))
        options = algorithm(kl=K3(0.1), correction=Truncated(2.0))
        corrected, gradient, corrected_metrics = loss_and_gradient(model, batch, options)
        assert torch.equal(corrected, plain) == torch.equal(gradient, plain_gradient) == (gap == 0.0)  # bit for bit
        own = {name: corrected_metrics.pop(name) for name in ("correction/mean", "correction/capped_fraction")}
        assert corrected_metrics == metrics and own["correction/mean"].value > 0


def test_the_weights_of_a_placeholder_are_not_counted():
    _, _, metrics = loss_and_gradient(tiny(seed=1).model, [placeholder(1)], algorithm(correction=Truncated(2.0)))
    assert metrics == {}


def test_a_run_logs_the_weights_where_sampler_and_update_differ(tmp_path):
    folder = run(tmp_path / "run", "correction=truncated", "trainer.precision=bf16-mixed", "num_steps=2")
    logged = [row for row in read_metrics(folder / "metrics.csv") if row["step"] > 0]
    for row in logged:
        assert row["correction/mean"] == pytest.approx(1.0, abs=0.1) and row["correction/capped_fraction"] == 0
    assert any(row["correction/mean"] != 1.0 for row in logged)


def test_without_it_nothing_is_logged(tmp_path):
    folder = run(tmp_path / "run", "num_steps=1")
    assert not [name for row in read_metrics(folder / "metrics.csv") for name in row if name.startswith("correction")]


def test_refused_where_every_weight_is_one(tmp_path):
    for overrides in (["correction=truncated"], ["correction=truncated", "rollout=transformers"]):
        with pytest.raises(ConfigError, match=r"correction has nothing to correct.*bf16-mixed or rollout=vllm"):
            build(config(*SMALL, *overrides, f"run_folder={tmp_path}"))
