"""PPO as a LightningModule: the DAPO step with a critic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from dapo_lightning.algorithm.critic import ValueModel
from dapo_lightning.algorithm.gae import GAE
from dapo_lightning.algorithm.kl import Penalty
from dapo_lightning.algorithm.tokens import ReducedMean
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.fill import Batch
from dapo_lightning.policy.value_model import value_model
from dapo_lightning.step.critic import CriticHost
from dapo_lightning.step.experience import MiniBatch, Row
from dapo_lightning.step.gradient import gradient_of
from dapo_lightning.step.module import DAPOModule
from dapo_lightning.step.result import Update
from dapo_lightning.types import Group


class PPOModule(DAPOModule):
    """Owns a policy and a critic, which starts as a copy of the policy with a scalar head.

    A step differs from that of DAPO in two places: the critic gives each state a value before the advantages are
    computed, and each gradient step trains the critic beside the policy. Expects `critic=ValueModel` and
    `advantage=GAE` in the algorithm.
    """

    trains_critic: ClassVar[bool] = True

    @wraps(DAPOModule.__init__)  # type: ignore[misc]  # settings are checked against its signature
    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        assert isinstance(self.algorithm.critic, ValueModel) and isinstance(self.algorithm.advantage, GAE)
        self.option, self.gae = self.algorithm.critic, self.algorithm.advantage
        if self.option.pretraining_steps:  # which take nothing from the schedule of the policy
            self._schedule = partial(self._schedule, delays=(self.option.pretraining_steps, 0))
        critic = value_model(self.worker.policy)
        self.critic_host = CriticHost(critic, self.host.temperature, self.host.micro_batch_tokens, logps_are_exact=True)
        self.critic = critic.model

    def with_old_policy(self, batch: Batch, rewards_PG: Tensor, ranks: Ranks) -> Batch:
        """Adds old log-probs, log-probs of the reference, the values of all states, the rewards of tokens, and the
        returns that the critic is to learn. Completions outside the loss get none."""
        batch = super().with_old_policy(batch, rewards_PG, ranks)
        if not batch.groups:
            return batch
        places = [(p, g) for p, group in enumerate(batch.groups) for g in range(group.size)]
        mine = [(p, g) for p, g in places if batch.is_trained_by(ranks.rank, p, g)]
        rows = [Row(batch.groups[p].prompt_tokens, batch.groups[p].trajectories[g]) for p, g in mine]
        rows, values = self.host.with_reference_logps(rows), self.critic_host.values(rows)
        known = [
            {
                "values_T": values_T,
                "reference_logps_T": row.reference_logps_T,
                "token_rewards_T": self._token_rewards(row),
            }
            for row, values_T in zip(rows, values, strict=True)
        ]
        everyones = dict(ranks.gather(list(zip(mine, known, strict=True))))
        groups = _with(batch.groups, everyones)
        returns_PGT = self.gae.returns(rewards_PG, groups)
        lengths = {(p, g): len(batch.groups[p].trajectories[g].tokens_T) for p, g in everyones}
        returns = {place: {"returns_T": returns_PGT[place][:length]} for place, length in lengths.items()}
        return replace(batch, groups=_with(groups, returns))

    def _token_rewards(self, row: Row) -> Tensor | None:
        """The KL penalty if it belongs to the reward; none for completions outside the loss without old log-probs."""
        kl, old_T = self.algorithm.kl, row.trajectory.old_logps_T
        if not (isinstance(kl, Penalty) and kl.in_reward) or old_T is None or row.reference_logps_T is None:
            return None
        return kl.rewards(old_T, row.reference_logps_T)

    def gradient(self, mini_batch: MiniBatch, ranks: Ranks) -> Update:
        """Adds the gradient of the critic. During value pretraining, the policy gets none."""
        loss_of = partial(self.critic_host.loss, critic=self.option, num_tokens=mini_batch.num_tokens)
        critic = gradient_of(mini_batch, self.critic_host, loss_of, self, self.max_gradient_norm, ranks)
        metrics = {**critic.metrics, "critic/gradient_norm": ReducedMean(critic.gradient_norm, 1)}
        if self.history.dapo_steps < self.option.pretraining_steps:
            return replace(critic, loss=0.0, gradient_norm=0.0, metrics=metrics)
        policy = super().gradient(mini_batch, ranks)
        problem = policy.problem or (critic.problem and f"the critic's {critic.problem}")
        return replace(policy, is_taken=problem is None, metrics={**policy.metrics, **metrics}, problem=problem)

    def configure_model(self) -> None:
        super().configure_model()
        self.critic_host.shard(self.trainer)
        names = [f"critic.{name}" for name, _ in (*self.critic.named_parameters(), *self.critic.named_buffers())]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    def trained_weights(self) -> list[dict[str, Any]]:
        weights = [weight for weight in self.critic.parameters() if weight.requires_grad]
        return [*super().trained_weights(), {"params": weights, "lr": self.option.learning_rate}]


def _with(groups: Sequence[Group], found: Mapping[tuple[int, int], dict[str, Any]]) -> tuple[Group, ...]:
    """Sets fields of trajectories, by the place of their group and their own place in it."""

    def completed(p: int, group: Group) -> Group:
        trajectories = (replace(t, **found.get((p, g), {})) for g, t in enumerate(group.trajectories))
        return replace(group, trajectories=tuple(trajectories))

    return tuple(completed(p, group) for p, group in enumerate(groups))
