"""The tokens that a technique receives, and the values and metrics that it returns for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field

from torch import Tensor, nn

from dapo_lightning.types import Trajectory


@dataclass(frozen=True)
class Tokens:
    """The tokens of one micro-batch. Rows are whole trajectories, padded on the right, so that a ratio may also be
    defined over a whole sequence.

    Args:
        logps_BT: log-probs under the policy that is being trained; only these and
            `entropies_BT` have a gradient.
        old_logps_BT: log-probs under the policy that sampled, from a forward pass; 0 where the mask is False.
        sampled_logps_BT: log-probs as the rollout recorded them; 0 where the mask is False.
        advantages_BT: [B, 1] or [B, T]; both broadcast.
        mask_BT: True for tokens in the loss. Options that sum over a row must apply it.
        reference_logps_BT: log-probs under the reference copy, 0 where the mask is False; None unless the KL option has
            `needs_reference = True`.
        entropies_BT: entropies of the policy that is being trained, in nats; None unless an option of the objective
            (ratio, clip, kl, correction, rejection, entropy) has `needs_entropies = True`.
        marks: what the `marks` of options have found out about each token from the whole mini-batch, [B, T] by
            name; 0 or False where the mask is False.
    """

    logps_BT: Tensor
    old_logps_BT: Tensor
    sampled_logps_BT: Tensor
    advantages_BT: Tensor
    mask_BT: Tensor
    reference_logps_BT: Tensor | None = None
    entropies_BT: Tensor | None = None
    marks: Mapping[str, Tensor] = field(default_factory=dict)

    def row_means(self, values_BT: Tensor) -> Tensor:
        """Returns the mean over the tokens of each row that are in the loss, [B, 1]; 0 for rows without any."""
        num_tokens_B1 = self.mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
        return values_BT.where(self.mask_BT, 0.0).sum(dim=1, keepdim=True) / num_tokens_B1


@dataclass(frozen=True)
class AllTokens:
    """The N tokens in the loss of a whole mini-batch, on all ranks, before its first backward pass, without gradients.
    Their order depends neither on micro-batches nor on ranks.

    Args:
        ids_N: the tokens.
        logps_N: log-probs under the policy that is about to be trained.
        old_logps_N: log-probs under the policy that sampled.
        entropies_N: entropies of the policy that is about to be trained, in nats.
        advantages_N: advantages.
    """

    ids_N: Tensor
    logps_N: Tensor
    old_logps_N: Tensor
    entropies_N: Tensor
    advantages_N: Tensor


@dataclass(frozen=True)
class CountedTokens:
    """The tokens of a whole mini-batch, on all ranks, as they are known before its first forward pass.

    Args:
        mask_BT: True for tokens in the loss.
        group_B: the number of each row's group.
        trajectories: the B rows.
    """

    mask_BT: Tensor
    group_B: Tensor
    trajectories: Sequence[Trajectory]

    @property
    def entropies_BT(self) -> Tensor:
        """Entropies recorded while sampling, in nats; 0 where the mask is False."""
        rows = [trajectory.entropies_T for trajectory in self.trajectories]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True).where(self.mask_BT, 0.0)

    @property
    def num_tokens_B(self) -> Tensor:
        """Number of tokens of each row that are in the loss."""
        return self.mask_BT.sum(dim=1)


@dataclass(frozen=True)
class Mean:
    """A metric: the mean of values over the tokens in the loss, or over those of them where `where_BT` is True. Steps
    without such tokens do not log it."""

    values_BT: Tensor
    where_BT: Tensor | None = None

    def reduce(self, mask_BT: Tensor) -> ReducedMean:
        where_BT = mask_BT if self.where_BT is None else mask_BT & self.where_BT
        return ReducedMean(float(self.values_BT.where(where_BT, 0.0).sum()), float(where_BT.sum()))


@dataclass(frozen=True)
class Max:
    """A metric: the maximum of non-negative values over the tokens in the loss."""

    values_BT: Tensor

    def reduce(self, mask_BT: Tensor) -> ReducedMax:
        return ReducedMax(float(self.values_BT.where(mask_BT, 0.0).max()))


@dataclass(frozen=True)
class EffectiveSize:
    """A metric: the effective sample size of importance weights exp(x) over the tokens in the loss, as a share of their
    number: (sum w)^2 / (n sum w^2) (Kish 1965). 1 means that all weights are equal."""

    log_weights_BT: Tensor

    def reduce(self, mask_BT: Tensor) -> ReducedEffectiveSize:
        weights = self.log_weights_BT.exp().where(mask_BT, 0.0)
        return ReducedEffectiveSize(float(weights.sum()), float(weights.square().sum()), float(mask_BT.sum()))


@dataclass(frozen=True)
class ExplainedVariance:
    """A metric: 1 - Var(targets - predictions) / Var(targets) over the tokens in the loss. 1 is a perfect prediction, 0
    one that is as good as a constant. Steps in which all targets are equal do not log it."""

    predictions_BT: Tensor
    targets_BT: Tensor

    def reduce(self, mask_BT: Tensor) -> ReducedExplainedVariance:
        targets_N = self.targets_BT[mask_BT].double()
        errors_N = targets_N - self.predictions_BT[mask_BT].double()
        sums = (values.sum() for values in (targets_N, targets_N.square(), errors_N, errors_N.square()))
        return ReducedExplainedVariance(len(targets_N), *map(float, sums))


Metric = Mean | Max | EffectiveSize | ExplainedVariance


@dataclass(frozen=True)
class ReducedMean:
    """A mean as a sum and a count, so that micro-batches, ranks and gradient steps add up."""

    total: float
    count: float

    def __add__(self, other: ReducedMean) -> ReducedMean:
        return ReducedMean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float | None:
        """The mean, or None over no tokens."""
        return self.total / self.count if self.count else None


@dataclass(frozen=True)
class ReducedMax:
    """A maximum, which combines with those of other micro-batches, ranks and gradient steps."""

    value: float

    def __add__(self, other: ReducedMax) -> ReducedMax:
        return ReducedMax(max(self.value, other.value))


@dataclass(frozen=True)
class ReducedEffectiveSize:
    """An effective sample size as sums of weights and of their squares, and a count."""

    total: float
    squares: float
    count: float

    def __add__(self, other: ReducedEffectiveSize) -> ReducedEffectiveSize:
        return ReducedEffectiveSize(self.total + other.total, self.squares + other.squares, self.count + other.count)

    @property
    def value(self) -> float | None:
        """The share in (0, 1], or None over no tokens."""
        return self.total**2 / (self.count * self.squares) if self.squares else None


@dataclass(frozen=True)
class ReducedExplainedVariance:
    """An explained variance as a count, and sums of targets, errors and their squares."""

    count: int
    targets: float
    squared_targets: float
    errors: float
    squared_errors: float

    def __add__(self, other: ReducedExplainedVariance) -> ReducedExplainedVariance:
        return ReducedExplainedVariance(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def value(self) -> float | None:
        """At most 1, or None if all targets are equal."""
        if not self.count:
            return None
        variance = self.squared_targets / self.count - (self.targets / self.count) ** 2
        unexplained = self.squared_errors / self.count - (self.errors / self.count) ** 2
        return 1 - unexplained / variance if variance > 1e-12 else None


Reduced = ReducedMean | ReducedMax | ReducedEffectiveSize | ReducedExplainedVariance


@dataclass(frozen=True)
class PerToken:
    """The result of an option of the objective: a value for each token, [B, T], and metrics under the names by which
    they are logged."""

    values_BT: Tensor
    metrics: Mapping[str, Metric] = field(default_factory=dict)
