"""Values of a critic -> advantages of single tokens: generalized advantage estimation (arXiv 1506.02438)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dapo_lightning.algorithm.whitening import whitened
from dapo_lightning.types import Group


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam_B: Tensor) -> Tensor:
    """A_t = delta_t + gamma lam A_t+1, with delta_t = r_t + gamma V_t+1 - V_t (Schulman et al. 2015, Eq. 16).

    After the last token the value is 0, whether the completion was truncated or not, as in verl and TRL: a truncated
    completion gets its reward, and no continuation is estimated. Tokens where the mask is False were not chosen by the
    policy. They are skipped, so the next token of the policy follows the previous one directly.

    Args:
        lam_B: one lambda for each row.

    Returns:
        [B, T]; 0 where the mask is False.
    """
    following_B, advantage_B = torch.zeros(len(values_BT)), torch.zeros(len(values_BT))
    following_B, advantage_B = following_B.to(values_BT), advantage_B.to(values_BT)
    advantages_BT = torch.zeros_like(values_BT)
    for t in range(values_BT.shape[1] - 1, -1, -1):
        mask_B, value_B = mask_BT[:, t], values_BT[:, t]
        delta_B = rewards_BT[:, t] + gamma * following_B - value_B
        advantage_B = torch.where(mask_B, delta_B + gamma * lam_B * advantage_B, advantage_B)
        following_B = torch.where(mask_B, value_B, following_B)
        advantages_BT[:, t] = advantage_B.where(mask_B, 0.0)
    return advantages_BT


@dataclass(frozen=True)
class GAE:
    """Advantages of single tokens, from the values of a critic. The reward of a completion is given to its last token.

    Args:
        gamma: discount for each token.
        lam: 1 sums up the rewards (no bias, high variance), 0 trusts the critic from token to token.
        critic_lam: lambda of the returns that the critic learns; None uses that of the policy. VAPO (arXiv 2504.05118,
            section 4.1) takes 1, so that the critic learns from rewards only.
        alpha: with this number instead of `lam`, lambda depends on the length l of the completion:
            1 - 1 / (alpha l), at least 0 (VAPO, section 4.2: 0.05).
        whiten: whether advantages are centred and divided by their standard deviation over all tokens of the rollout.

    Raises:
        ValueError: for numbers out of range, and unless exactly one of `lam` and `alpha` is given.
    """

    chooses_tokens: ClassVar[bool] = True
    gamma: float = 1.0
    lam: float | None = 0.95
    critic_lam: float | None = None
    alpha: float | None = None
    whiten: bool = True
    needs_values: ClassVar[bool] = True  # of a critic; a group may then hold a single completion

    def __post_init__(self) -> None:
        for name in ("gamma", "lam", "critic_lam"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"advantage.{name}={value}: must lie in [0, 1].")
        if (self.lam is None) == (self.alpha is None):
            raise ValueError(
                f"advantage.lam={self.lam} and advantage.alpha={self.alpha}: set one of them, and the other one to "
                "null. (alpha makes lambda depend on the length of the completion.)"
            )
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"advantage.alpha={self.alpha}: must be positive (VAPO: 0.05).")

    def __call__(self, rewards_PG: Tensor, groups: Sequence[Group]) -> Tensor:
        """[P, G] rewards -> [P, G, T] advantages."""
        rewards_BT, values_BT, mask_BT = _rows(rewards_PG, groups)
        advantages_BT = gae(rewards_BT, values_BT, mask_BT, self.gamma, self._lam(mask_BT))
        if self.whiten:
            advantages_BT = whitened(advantages_BT, mask_BT)
        return advantages_BT.unflatten(0, rewards_PG.shape)

    def returns(self, rewards_PG: Tensor, groups: Sequence[Group]) -> Tensor:
        """[P, G] rewards -> [P, G, T]: the advantage without whitening plus the value, which the critic learns."""
        rewards_BT, values_BT, mask_BT = _rows(rewards_PG, groups)
        ours = self._lam(mask_BT)
        lam_B = ours if self.critic_lam is None else torch.full_like(ours, self.critic_lam)
        return (gae(rewards_BT, values_BT, mask_BT, self.gamma, lam_B) + values_BT).unflatten(0, rewards_PG.shape)

    def _lam(self, mask_BT: Tensor) -> Tensor:
        if self.lam is not None:
            return torch.full((len(mask_BT),), self.lam)
        assert self.alpha is not None
        return (1 - 1 / (self.alpha * mask_BT.sum(dim=1).clamp(min=1))).clamp(min=0.0)


def _rows(rewards_PG: Tensor, groups: Sequence[Group]) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards of tokens, values and masks of all trajectories, [B, T]; 0 where the policy wrote no token,
    and in completions without values, which are outside the loss."""
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    if any(t.values_T is None and not t.truncated and t.loss_mask_T.any() for t in trajectories):
        raise ValueError("advantage=gae needs the values of a critic (critic=value_model, module=ppo).")
    masks = [t.loss_mask_T & (t.values_T is not None) for t in trajectories]
    mask_BT = pad_sequence(masks, batch_first=True)

    def padded(name: str) -> Tensor:
        given = [(getattr(t, name), torch.zeros(len(t.tokens_T))) for t in trajectories]
        rows = [none if value is None else value for value, none in given]
        return pad_sequence(rows, batch_first=True).where(mask_BT, 0.0)

    values_BT, rewards_BT = padded("values_T"), padded("token_rewards_T")
    last_B = mask_BT.shape[1] - 1 - mask_BT.flip(1).int().argmax(dim=1)
    rewards_BT[torch.arange(len(rewards_BT)), last_B] += rewards_PG.flatten()
    return rewards_BT, values_BT, mask_BT
