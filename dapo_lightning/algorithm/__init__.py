"""The six techniques of DAPO as pure functions of tensors. One file, one equation, one config group."""

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

    def verdict(self, group: Group) -> Verdict: ...
    def next_round(self, missing: int, num_seen: int, num_kept: int, rounds_done: int) -> int: ...
    def at_end(self, missing: int, reasons: dict[str, int]) -> str | None: ...


class KLOption(Protocol):
    """See `kl.py`."""

    @property
    def needs_reference(self) -> bool: ...
    def penalty(self, logps_BT: Tensor, reference_logps_BT: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Algorithm:
    """One choice for each technique: what an experiment is."""

    clip: ClipOption
    loss: LossOption
    overlong: OverlongOption
    sampling: SamplingOption
    advantage: Callable[[Tensor], Tensor]
    kl: KLOption
