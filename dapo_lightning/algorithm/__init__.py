"""The techniques as pure functions of tensors: one file, one equation and one config group for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dapo_lightning.algorithm.tokens import CountedTokens, PerToken, Tokens
from dapo_lightning.types import Group, Verdict


class RatioOption(Protocol):
    """Importance ratio of the trained policy to the old one. See `ratio.py`."""

    def __call__(self, tokens: Tokens) -> Tensor:
        """[B, T], with a gradient."""
        ...


class ClipOption(Protocol):
    """Per-token surrogate objective. See `clip.py`."""

    def __call__(self, ratio_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective to maximise for each token."""
        ...


class LossOption(Protocol):
    """Aggregation of the per-token objectives. See `loss.py`."""

    def weights(self, tokens: CountedTokens) -> Tensor:
        """The weight of each token, including its denominator: [B, 1] if all tokens of a row share it, else [B, T]."""
        ...


class OverlongOption(Protocol):
    """Treatment of long and truncated trajectories. See `overlong.py`."""

    def penalty(self, num_tokens: Tensor) -> Tensor:
        """The number added to each reward, of the same shape as `num_tokens`."""
        ...

    def loss_mask(self, truncated_B: Tensor) -> Tensor:
        """Which trajectories are in the loss and in its denominator, [B] bool."""
        ...


class SamplingOption(Protocol):
    """Selection of the groups that are trained on. See `sampling.py`."""

    @property
    def carries(self) -> bool:
        """Whether useful groups that a step does not need are trained on in the next step."""
        ...

    def verdict(self, group: Group) -> Verdict:
        """Whether a group is kept, and why."""
        ...

    def next_round(self, missing: int, keep_rate: float, rounds_done: int) -> int:
        """The number of prompts to sample next; 0 ends the sampling."""
        ...

    def shortfall(self, missing: int, reasons: dict[str, int]) -> str | None:
        """A warning if `missing` groups are still missing at the end; None if the batch is full."""
        ...


class AdvantageOption(Protocol):
    """Rewards -> advantages. See `advantage.py`."""

    def __call__(self, rewards_PG: Tensor, groups: Sequence[Group]) -> Tensor:
        """[P, G] shaped rewards and their groups -> [P, G, 1] if all tokens of a trajectory share an advantage, else
        [P, G, T] padded on the right."""
        ...


class KLOption(Protocol):
    """Penalty against the reference copy. See `kl.py`."""

    @property
    def needs_reference(self) -> bool: ...

    def __call__(self, tokens: Tokens) -> PerToken:
        """The penalty that is subtracted from the objective of each token."""
        ...


class CorrectionOption(Protocol):
    """Importance weights for the difference between sampler and policy. See `correction.py`."""

    @property
    def reweights(self) -> bool: ...

    def __call__(self, tokens: Tokens) -> PerToken:
        """The factor for the objective of each token, without a gradient."""
        ...


@dataclass(frozen=True)
class Algorithm:
    """One option for each technique. An experiment is a choice of these."""

    ratio: RatioOption
    clip: ClipOption
    loss: LossOption
    overlong: OverlongOption
    sampling: SamplingOption
    advantage: AdvantageOption
    kl: KLOption
    correction: CorrectionOption

    @staticmethod
    def dapo(max_tokens: int, cache_tokens: int) -> Algorithm:
        """DAPO with the paper's values: Clip-Higher (0.8, 1.28), dynamic sampling, token-level loss, group-normalised
        advantages and soft overlong punishment; `dataclasses.replace` exchanges single options.

        Args:
            max_tokens: length from which the punishment is -1; usually the longest possible completion.
            cache_tokens: number of tokens before that length over which the punishment grows.
        """
        from dapo_lightning.algorithm import advantage, clip, correction, kl, loss, overlong, ratio, sampling

        return Algorithm(
            ratio=ratio.TokenRatio(),
            clip=clip.Clip(lower=0.8, upper=1.28),
            loss=loss.TokenLevel(),
            overlong=overlong.Punish(max_tokens, cache_tokens),
            sampling=sampling.Dynamic(max_rounds=6, at_cap="train_partial"),
            advantage=advantage.GroupNormalized(),
            kl=kl.NoKL(),
            correction=correction.NoCorrection(),
        )

    @property
    def needs_entropies(self) -> bool:
        """Whether an option of the objective needs the entropies of the policy that is being trained."""
        return any(getattr(o, "needs_entropies", False) for o in (self.ratio, self.clip, self.kl, self.correction))
