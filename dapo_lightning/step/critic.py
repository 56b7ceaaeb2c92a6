"""Runs the critic on rows: values of the states that a rollout visited, and the loss of the values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dapo_lightning.algorithm.critic import ValueModel
from dapo_lightning.algorithm.tokens import Reduced
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.forward.logprobs import completion_values, right_pad
from dapo_lightning.step.experience import Row
from dapo_lightning.step.host import PolicyHost


@dataclass
class CriticHost(PolicyHost):
    """Runs the critic; `policy` holds its model. The replicas of DDP do not include it, because they wait for gradients
    of all their weights in each backward pass, so its gradients are averaged here."""

    @torch.no_grad()
    def values(self, rows: Sequence[Row]) -> list[Tensor]:
        """Returns the values of the states before each row's tokens, [T], on the CPU."""
        found = self.of_tokens(lambda *given: (completion_values(*given),), self.policy.model, rows)
        return [values_T for (values_T,) in found]

    @contextmanager
    def backward(self, wrapped: nn.Module | None, is_last: bool) -> Iterator[None]:
        """See `PolicyHost.backward`."""
        with super().backward(wrapped, is_last=False):
            yield
        if is_last and isinstance(wrapped, DistributedDataParallel):
            Ranks.current().average([w.grad for w in self.policy.model.parameters() if w.grad is not None])

    def loss(self, rows: Sequence[Row], critic: ValueModel, num_tokens: int) -> tuple[Tensor, dict[str, Reduced]]:
        """Returns the part of the mean loss over the `num_tokens` tokens of a mini-batch that is due to the given rows,
        and their metrics."""
        trajectories = [row.trajectory for row in rows]
        prompts, written = [row.prompt_tokens for row in rows], [trajectory.tokens_T for trajectory in trajectories]
        values_BT = completion_values(self.policy.model, prompts, written)
        mask_BT = right_pad([trajectory.loss_mask_T for trajectory in trajectories], values_BT.device)
        if not mask_BT.any():  # a placeholder takes part in collectives
            return values_BT.sum() * 0, {}
        old_BT, returns_BT = (
            right_pad([getattr(t, name) for t in trajectories], values_BT.device) for name in ("values_T", "returns_T")
        )
        found = critic.loss(values_BT, old_BT, returns_BT)
        loss = found.values_BT.where(mask_BT, 0.0).sum() / num_tokens
        return loss, {name: metric.reduce(mask_BT) for name, metric in found.metrics.items()}
