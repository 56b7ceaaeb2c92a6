"""What the step offers to new techniques: masks, values for single tokens, entropies, and the age of trajectories."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from conftest import algorithm, batch_of, make_group, mini_batch, mini_batches, tiny
from losses import gradient, on_policy
from torch import Tensor

from dapo_lightning.algorithm.clip import NoClip
from dapo_lightning.algorithm.loss import SampleLevel, TokenLevel
from dapo_lightning.algorithm.overlong import Filter, Punish
from dapo_lightning.algorithm.tokens import CountedTokens, Mean, PerToken, Tokens
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.step.experience import MiniBatch, placeholder
from dapo_lightning.step.host import PolicyHost, StaleTrajectoryError

GROUPS = [make_group(0, [1, -1, 1], [2, 9, 4]), make_group(1, [-1, -1, 1], [12, 1, 7])]


# --- tokens that an environment wrote ---------------------------------------------------------------------------------


def with_environment(group):
    """The same group, whose trajectories hold three more tokens in the middle that the policy did not write."""

    def insert(values, added):
        return torch.cat([values[:1], torch.full((3,), added, dtype=values.dtype), values[1:]])

    return replace(
        group,
        trajectories=tuple(
            replace(
                t,
                tokens_T=insert(t.tokens_T, 40),
                loss_mask_T=insert(t.loss_mask_T, False),
                logps_T=insert(t.logps_T, math.nan),
                entropies_T=insert(t.entropies_T, math.nan),
            )
            for t in group.trajectories
        ),
    )


def test_lengths_punishments_denominators_and_metrics_count_what_the_policy_wrote():
    options = algorithm(overlong=Punish(12, 6), loss=SampleLevel())
    turns = [with_environment(group) for group in GROUPS]
    for group, single in zip(turns, GROUPS, strict=True):
        assert torch.equal(group.lengths_G(), single.lengths_G())
        assert GroupRecord.of(group) == GroupRecord.of(single)
    one, other = mini_batch(turns, options), mini_batch(GROUPS, options)
    assert one.num_tokens == other.num_tokens
    for row, single in zip(one.rows, other.rows, strict=True):
        assert torch.equal(row.advantages, single.advantages) and torch.equal(row.weights, single.weights)
        assert row.num_tokens == single.num_tokens + 3


def test_tokens_of_an_environment_have_no_part_in_loss_gradient_and_metrics():
    model, options = tiny(seed=1).model, algorithm(clip=NoClip())
    rows = on_policy(mini_batch([with_environment(group) for group in GROUPS], options).rows)
    grad, loss, metrics = gradient(model, rows, options)
    assert torch.isfinite(grad).all() and metrics["ratio/mean"].count == 35
    changed = [
        replace(r, trajectory=replace(r.trajectory, old_logps_T=r.trajectory.old_logps_T.nan_to_num(-9.0)))
        for r in rows
    ]
    again, same_loss, same_metrics = gradient(model, changed, options)
    assert torch.equal(grad, again) and loss == same_loss and metrics == same_metrics


@dataclass(frozen=True)
class SequenceRatio:
    """The geometric mean of a row's ratios (as in GSPO), the natural way: a masked mean."""

    def __call__(self, tokens: Tokens) -> Tensor:
        log_ratio_BT = tokens.logps_BT - tokens.old_logps_BT
        mean_B1 = (log_ratio_BT * tokens.mask_BT).sum(dim=1, keepdim=True) / tokens.mask_BT.sum(dim=1, keepdim=True)
        return mean_B1.exp().expand_as(log_ratio_BT)


def test_a_ratio_of_sequences_sees_neither_an_environment_nor_a_placeholder():
    model, options = tiny(seed=1).model, algorithm(ratio=SequenceRatio(), clip=NoClip())
    rows = on_policy(mini_batch([with_environment(group) for group in GROUPS], options).rows)
    expected = gradient(model, rows, options)[0]
    assert torch.isfinite(expected).all()
    with_placeholder = torch.zeros_like(expected)
    for part in (rows, [placeholder(1)]):
        grad, loss, _ = gradient(model, part, options)
        assert math.isfinite(loss)
        with_placeholder += grad
    torch.testing.assert_close(with_placeholder, expected)


# --- values for single tokens -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LaterTokensMore:
    """An advantage that grows along the trajectory: [P, G, T]."""

    def __call__(self, rewards_PG: Tensor, groups) -> Tensor:
        longest = max(len(t.tokens_T) for group in groups for t in group.trajectories)
        return rewards_PG[..., None] * torch.arange(1, longest + 1)


@dataclass(frozen=True)
class UncertainTokens:
    """Only tokens with an entropy above 1/2 count, all alike: weights [B, T] with their own denominator."""

    needs_trajectories: ClassVar[bool] = True

    def weights(self, tokens: CountedTokens) -> Tensor:
        uncertain_BT = tokens.mask_BT & (tokens.entropies_BT > 0.5)
        return uncertain_BT.float() / uncertain_BT.sum()


def test_advantages_and_weights_of_single_tokens_are_the_slow_obvious_loop_and_survive_any_cut():
    options = algorithm(advantage=LaterTokensMore(), loss=UncertainTokens(), clip=NoClip())
    model, rows = tiny(seed=1).model, on_policy(mini_batch(GROUPS, options).rows)
    for row in rows:
        length, reward = len(row.trajectory.tokens_T), row.advantages[0]
        assert torch.equal(row.advantages, reward * torch.arange(1, length + 1))
    expected = 0.0
    for row in rows:
        seen = list(row.prompt_tokens)
        for t, token in enumerate(row.trajectory.tokens_T.tolist()):
            with torch.no_grad():
                logp = (model(torch.tensor([seen])).logits[0, -1] / 0.8).log_softmax(0)[token].item()
            ratio = math.exp(logp - row.trajectory.old_logps_T[t].item())
            expected -= row.weights[t].item() * ratio * row.advantages[t].item()
            seen.append(token)
    whole, loss, _ = gradient(model, rows, options)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert sum(float(row.weights.sum()) for row in rows) == pytest.approx(1.0)
    for max_tokens in (1, 15, 40):
        cut, cut_loss, _ = gradient(model, rows, options, max_tokens)
        assert cut_loss == pytest.approx(loss, rel=1e-4)
        torch.testing.assert_close(cut, whole, atol=1e-5 * float(whole.abs().max()), rtol=0)


def test_advantages_of_another_shape_are_refused_and_without_groups_nothing_is_asked():
    assert mini_batches([], algorithm(advantage=LaterTokensMore()), 2) == [MiniBatch(), MiniBatch()]
    flat = algorithm(advantage=lambda rewards_PG, groups: rewards_PG)
    with pytest.raises(ValueError, match=r"shape \[2, 3\].*return \[2, 3, 1\], or \[2, 3, 12\]"):
        mini_batch(GROUPS, flat)


# --- entropies --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EntropyBonus:
    """A clip option that adds the entropy of the policy to its objective."""

    needs_entropies = True

    def __call__(self, ratio_BT: Tensor, tokens: Tokens) -> PerToken:
        return PerToken(ratio_BT * 0 + tokens.entropies_BT, {"entropy/trained": Mean(tokens.entropies_BT.detach())})


def test_an_option_that_asks_for_entropies_gets_those_of_the_trained_policy_with_their_gradient():
    model, options = tiny(seed=1).model, algorithm(clip=EntropyBonus(), loss=TokenLevel())
    rows = on_policy(mini_batch(GROUPS, options).rows)
    entropies = []
    for row in rows:
        seen = list(row.prompt_tokens)
        for token in row.trajectory.tokens_T.tolist():
            log_p = (model(torch.tensor([seen])).logits[0, -1] / 0.8).log_softmax(0)
            entropies.append(-(log_p.exp() * log_p).sum())
            seen.append(token)
    model.zero_grad()
    (-torch.stack(entropies).mean()).backward()
    slow = torch.cat([p.grad.flatten() for p in model.parameters()]).clone()
    fast, loss, metrics = gradient(model, rows, options)
    assert loss == pytest.approx(-float(torch.stack(entropies).mean()), rel=1e-4)
    assert metrics["entropy/trained"].value == pytest.approx(-loss, rel=1e-5)
    torch.testing.assert_close(fast, slow, atol=1e-4 * float(slow.abs().max()), rtol=1e-3)


# --- the weights that sampled -----------------------------------------------------------------------------------------


def host(logps_are_exact=False):
    return PolicyHost(tiny(seed=1), temperature=1.0, micro_batch_tokens=1000, logps_are_exact=logps_are_exact)


def test_a_stale_trajectory_never_gets_the_log_probs_of_newer_weights():
    with pytest.raises(StaleTrajectoryError, match=r"sampled after 0 DAPO steps.*trained for 3"):
        host().with_old_logps(batch_of(GROUPS), algorithm(), policy_step=3, ranks=Ranks())


def test_stale_trajectories_keep_the_old_log_probs_that_they_carry():
    carried = [
        replace(g, trajectories=tuple(replace(t, old_logps_T=t.logps_T) for t in g.trajectories)) for g in GROUPS[:1]
    ]
    fresh = [replace(g, trajectories=tuple(replace(t, policy_step=3) for t in g.trajectories)) for g in GROUPS[1:]]
    batch = host().with_old_logps(batch_of(carried + fresh), algorithm(), policy_step=3, ranks=Ranks())
    for trajectory in batch.groups[0].trajectories:
        assert torch.equal(trajectory.old_logps_T, trajectory.logps_T)
    for trajectory in batch.groups[1].trajectories:
        assert not torch.equal(trajectory.old_logps_T, trajectory.logps_T)


def test_recorded_log_probs_serve_as_old_ones_where_they_are_exact():
    batch = host(logps_are_exact=True).with_old_logps(batch_of(GROUPS), algorithm(), policy_step=3, ranks=Ranks())
    assert all(torch.equal(t.old_logps_T, t.logps_T) for group in batch.groups for t in group.trajectories)


def test_trajectories_outside_of_the_loss_need_no_old_log_probs():
    group = make_group(0, [1, -1, 1], [2, 9, 4], [False, True, False])
    batch = host().with_old_logps(batch_of([group]), algorithm(overlong=Filter()), policy_step=0, ranks=Ranks())
    assert [t.old_logps_T is None for t in batch.groups[0].trajectories] == [False, True, False]


def test_a_reward_that_is_not_finite_is_named_also_in_a_carried_group():
    broken = make_group(5, [1.0, math.nan])
    (only,) = mini_batches([*[make_group(n, [1, -1]) for n in range(2)], broken], algorithm(), 4)
    assert only.rows == () and "the reward of test:5 is not finite" in only.problem
