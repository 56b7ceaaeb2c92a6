"""PPO as a LightningModule: the DAPO step with a critic."""

from __future__ import annotations

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
from dapo_lightning.step.places import places_of, with_fields
from dapo_lightning.step.result import Update
from dapo_lightning.types import Trajectory


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
        """Adds log-probs, the values of all states, the rewards of tokens, and the returns that the critic learns.
        Completions outside the loss get none."""
        batch = super().with_old_policy(batch, rewards_PG, ranks)
        if not batch.groups:
            return batch
        mine = places_of(batch, ranks)
        values = self.critic_host.values([Row(prompt, trajectory) for prompt, trajectory in mine.values()])
        known = [
            {"values_T": values_T, "token_rewards_T": self._token_rewards(trajectory)}
            for (_, trajectory), values_T in zip(mine.values(), values, strict=True)
        ]
        everyones = dict(ranks.gather(list(zip(mine, known, strict=True))))
        groups = with_fields(batch.groups, everyones)
        returns_PGT = self.gae.returns(rewards_PG, groups)
        lengths = {(p, g): len(batch.groups[p].trajectories[g].tokens_T) for p, g in everyones}
        returns = {place: {"returns_T": returns_PGT[place][:length]} for place, length in lengths.items()}
        return replace(batch, groups=with_fields(groups, returns))

    def _token_rewards(self, trajectory: Trajectory) -> Tensor | None:
        """The KL penalty if it belongs to the reward; none for completions outside the loss without old log-probs."""
        kl, old_T, reference_T = self.algorithm.kl, trajectory.old_logps_T, trajectory.reference_logps_T
        if not (isinstance(kl, Penalty) and kl.in_reward) or old_T is None or reference_T is None:
            return None
        return kl.rewards(old_T, reference_T)

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
