"""The seven techniques as pure functions of tensors. One file, one equation, one config group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dapo_lightning.types import Group, Verdict


class ClipOption(Protocol):
    """See `clip.py`."""

    def objective(self, ratio_BT: Tensor, advantages_B: Tensor) -> Tensor: ...
    def clipped_above(self, ratio_BT: Tensor, advantages_B: Tensor) -> Tensor: ...
    def clipped_below(self, ratio_BT: Tensor, advantages_B: Tensor) -> Tensor: ...


class LossOption(Protocol):
    """See `loss.py`."""

    def weights(self, num_tokens_B: Tensor, group_B: Tensor) -> Tensor: ...


class OverlongOption(Protocol):
    """See `overlong.py`."""

    def penalty(self, num_tokens_B: Tensor) -> Tensor: ...
    def counts(self, truncated_B: Tensor) -> Tensor: ...


class SamplingOption(Protocol):
    """See `sampling.py`."""

    @property
    def carries(self) -> bool: ...
    def verdict(self, group: Group) -> Verdict: ...
    def next_round(self, missing: int, keep_rate: float, rounds_done: int) -> int: ...
    def at_end(self, missing: int, reasons: dict[str, int]) -> str | None: ...


class KLOption(Protocol):
    """See `kl.py`."""

    @property
    def needs_reference(self) -> bool: ...
    def penalty(self, logps_BT: Tensor, reference_logps_BT: Tensor) -> Tensor: ...


class CorrectionOption(Protocol):
    """See `correction.py`."""

    @property
    def reweights(self) -> bool: ...
    def weights(self, old_logps_BT: Tensor, sampled_logps_BT: Tensor) -> Tensor: ...
    def capped(self, old_logps_BT: Tensor, sampled_logps_BT: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Algorithm:
    """One choice for each technique: what an experiment is."""

    clip: ClipOption
    loss: LossOption
    overlong: OverlongOption
    sampling: SamplingOption
    advantage: Callable[[Tensor], Tensor]
    kl: KLOption
    correction: CorrectionOption
