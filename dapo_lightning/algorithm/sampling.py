"""Decides which groups are trained on (section 3.2, "Dynamic Sampling", Eq. 11)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from dapo_lightning.types import Group, Verdict


@dataclass(frozen=True)
class Static:
    """Samples one round and trains on every group, as naive GRPO does. All-correct and all-wrong groups have zero
    advantage, so they dilute the batch."""

    carries: ClassVar[bool] = False
    filters_groups: ClassVar[bool] = False  # whether more groups are generated than trained on; mode=plan reads it

    def verdict(self, group: Group) -> Verdict:
        """Keeps every group; the reason says whether it is useful."""
        return Verdict(keep=True, reason=usefulness(group))

    def next_round(self, missing: int, keep_rate: float, rounds_done: int) -> int:
        """Returns the number of prompts to sample next: all of them in the first round, then none."""
        return missing if rounds_done == 0 else 0

    def shortfall(self, missing: int, reasons: dict[str, int]) -> str | None:
        """No warning: the batch is never short of groups."""
        return None


@dataclass(frozen=True)
class Dynamic:
    """Samples prompts until enough groups have 0 < number correct < G.

    The rule reads RAW correctness, never the shaped reward: a length penalty gives all-wrong groups a variance, and
    training on them ruins the policy.

    Args:
        max_rounds: how many rounds of prompts may be drawn for one DAPO step.
        at_cap: what happens if max_rounds did not fill the batch: "error", or "train_partial".
        max_oversampling: a round draws at most this many prompts per missing group.
        surplus: what happens to useful groups that a step does not need: "drop", or "carry", with which the next step
            trains on them, one step off-policy.
        partial: partial rollouts: groups are generated in slices of this many tokens, and a step ends with the slice in
            which its batch is full; unfinished completions go on in the next step. None: no partial rollouts.

    Raises:
        ValueError: if a value is out of range; the message names the key.
    """

    max_rounds: int
    at_cap: str
    max_oversampling: float = 4.0
    surplus: str = "drop"
    partial: int | None = None
    filters_groups: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.max_rounds < 1:
            raise ValueError(f"sampling.max_rounds={self.max_rounds}: at least one round is needed.")
        if self.at_cap not in ("error", "train_partial"):
            raise ValueError(f"sampling.at_cap={self.at_cap!r}: choose 'error' or 'train_partial'.")
        if not 1 <= self.max_oversampling < math.inf:
            raise ValueError(
                f"sampling.max_oversampling={self.max_oversampling}: must be a finite number of at least 1, because a "
                "round draws at least one prompt per missing group (with 1, exactly one)."
            )
        if self.surplus not in ("drop", "carry"):
            raise ValueError(f"sampling.surplus={self.surplus!r}: choose 'drop' or 'carry'.")
        if self.partial is not None and self.partial < 1:
            raise ValueError(f"sampling.partial={self.partial}: must be at least 1, or null for no partial rollouts.")
        if self.partial is not None and self.surplus == "drop":
            raise ValueError(
                f"sampling.partial={self.partial} needs sampling.surplus=carry: otherwise groups that were generated "
                "over several steps could be dropped in the end."
            )

    @property
    def carries(self) -> bool:
        """Whether surplus groups are kept for the next step."""
        return self.surplus == "carry"

    def verdict(self, group: Group) -> Verdict:
        """Keeps a group that has both correct and wrong completions."""
        reason = usefulness(group)
        return Verdict(keep=reason == "useful", reason=reason)

    def next_round(self, missing: int, keep_rate: float, rounds_done: int) -> int:
        """Returns the number of prompts to sample next: missing / keep_rate, but at most max_oversampling * missing,
        because a keep rate measured on few groups is noisy."""
        if missing <= 0 or rounds_done >= self.max_rounds:
            return 0
        needed = missing / keep_rate if keep_rate else math.inf
        return math.ceil(min(needed, int(self.max_oversampling * missing)))

    def shortfall(self, missing: int, reasons: dict[str, int]) -> str | None:
        """A warning if the batch is short of groups; None if it is full.

        Raises:
            SamplingError: if it is short and at_cap is "error".
        """
        if missing <= 0:
            return None
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        message = f"dynamic sampling: still {missing} useful groups short after {self.max_rounds} rounds ({counts})"
        if self.at_cap == "error":
            raise SamplingError(
                f"{message}. Raise sampling.max_rounds, use prompts that are neither too easy nor too hard, "
                "or set sampling.at_cap=train_partial."
            )
        return f"{message}; training on the groups that were found."


class SamplingError(RuntimeError):
    """Dynamic sampling could not fill a batch within its rounds."""


def usefulness(group: Group) -> str:
    """Returns "useful" for a group with correct and wrong completions, else "all_correct" or "all_wrong"."""
    if group.num_correct == 0:
        return "all_wrong"
    return "all_correct" if group.num_correct == group.size else "useful"
