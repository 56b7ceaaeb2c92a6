"""The techniques as pure functions of tensors: one file, one equation and one config group for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Protocol

from torch import Tensor

from dapo_lightning.algorithm.critic import NoCritic
from dapo_lightning.algorithm.entropy import NoEntropy
from dapo_lightning.algorithm.rejection import NoRejection
from dapo_lightning.algorithm.tokens import AllTokens, CountedTokens, PerToken, Tokens
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
    """Selection of the groups that are trained on. See `sampling.py`.

    `partial`: optional, the tokens of a slice of partial rollouts, or None; needs `carries`.
    """

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


class CriticOption(Protocol):
    """A second network that predicts returns. See `critic.py`; `dapo_lightning.step.ppo` trains it."""

    @property
    def gives_values(self) -> bool: ...


class CorrectionOption(Protocol):
    """Importance weights for the difference between sampler and policy. See `correction.py`."""

    @property
    def reweights(self) -> bool: ...

    def __call__(self, tokens: Tokens) -> PerToken:
        """The factor for the objective of each token, without a gradient."""
        ...


class RejectionOption(Protocol):
    """Exclusion of tokens on which sampler and policy differ too much. See `rejection.py`."""

    @property
    def reweights(self) -> bool: ...

    def __call__(self, tokens: Tokens) -> PerToken:
        """1 for tokens that are kept and 0 for the others: a factor for the objective, without a gradient."""
        ...


class EntropyOption(Protocol):
    """An objective that depends on the entropy of the policy. See `entropy.py`."""

    def __call__(self, objective_BT: Tensor, tokens: Tokens) -> PerToken:
        """The objective of each token, without the KL penalty -> the objective that is maximised instead."""
        ...


@dataclass(frozen=True)
class Algorithm:
    """One option for each technique. An experiment is a choice of these.

    Besides the method of its group, an option may have

        marks(tokens: AllTokens) -> Mapping[str, Tensor]: values [N] that need the whole mini-batch; the option finds
            them in `Tokens.marks`. They cost one more forward pass.
        adapted(metrics: Mapping[str, float]) -> the option for the next DAPO step, given the metrics of this one. Its
            numbers are saved in checkpoints.
        couples_tokens = True: all tokens of a completion are trained through one ratio.
        chooses_tokens = True: tokens of a completion are left out, or have advantages of their own.
    """

    ratio: RatioOption
    clip: ClipOption
    loss: LossOption
    overlong: OverlongOption
    sampling: SamplingOption
    advantage: AdvantageOption
    kl: KLOption
    correction: CorrectionOption
    rejection: RejectionOption = field(default_factory=NoRejection)
    entropy: EntropyOption = field(default_factory=NoEntropy)
    critic: CriticOption = field(default_factory=NoCritic)

    def __post_init__(self) -> None:
        """Refuses options that choose among the tokens of a completion if others give them one ratio together."""
        coupling, choosing = (
            [
                f"{group} ({type(option).__name__})"
                for group, option in self.options.items()
                if getattr(option, name, False)
            ]
            for name in ("couples_tokens", "chooses_tokens")
        )
        if coupling and choosing:
            raise ValueError(
                f"{coupling[0]} gives all tokens of a completion one ratio, through which all of them are trained, so "
                f"{choosing[0]} cannot choose among them: use ratio=sequence_token with another clip than gmpo, or "
                "another option in place of the second one."
            )

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
    def options(self) -> dict[str, Any]:
        """The options by the names of their groups."""
        return {group.name: getattr(self, group.name) for group in fields(self)}

    @property
    def needs_entropies(self) -> bool:
        """Whether an option of the objective needs the entropies of the policy that is being trained."""
        return any(getattr(option, "needs_entropies", False) for option in self.options.values())

    def marks(self, tokens: AllTokens) -> dict[str, Tensor]:
        """What the options mark on the tokens of a mini-batch, by name, [N] each."""
        marking = (option for option in self.options.values() if hasattr(option, "marks"))
        return {name: marks_N for option in marking for name, marks_N in option.marks(tokens).items()}

    @property
    def has_marks(self) -> bool:
        """Whether an option needs to see the whole mini-batch."""
        return any(hasattr(option, "marks") for option in self.options.values())

    def adapted(self, metrics: Mapping[str, float]) -> Algorithm:
        """The algorithm for the next DAPO step, given the metrics of this one."""
        return replace(self, **{group: option.adapted(metrics) for group, option in self._adaptive().items()})

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The values of adaptive options, for checkpoints."""
        return {group: asdict(option) for group, option in self._adaptive().items()}

    def loaded(self, state: Mapping[str, Mapping[str, Any]]) -> Algorithm:
        """The algorithm with the values of a checkpoint. Options that were not adaptive in its run stay as they are."""
        return replace(self, **{group: replace(o, **state.get(group, {})) for group, o in self._adaptive().items()})

    def _adaptive(self) -> dict[str, Any]:
        return {group: option for group, option in self.options.items() if hasattr(option, "adapted")}

    @property
    def needs_trajectories(self) -> bool:
        """Whether advantages or weights are computed from tokens, log-probs or entropies of the trajectories, which all
        ranks then exchange; otherwise, options may use only the numbers in `Group` and `CountedTokens`."""
        return any(getattr(option, "needs_trajectories", False) for option in (self.advantage, self.loss))
