"""Dynamic sampling: draws prompts until a batch of useful groups is full (lines 2 to 8 of Algorithm 1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from dapo_lightning.algorithm import SamplingOption
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.ahead import AheadGenerator, Generate, KeepRate
from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.types import Group


@dataclass(frozen=True)
class DrawState:
    """What a run remembers of its draws from one DAPO step to the next; the same on every rank.

    `num_drawn`: prompts that the steps so far have used up. `carried`: useful groups left over from the last step.
    """

    num_drawn: int = 0
    keep_rate: KeepRate = field(default_factory=KeepRate)
    carried: tuple[Group, ...] = ()


class PromptDraws:
    """The prompts of a run, and how many groups each DAPO step needs. `fill` samples from it, inside the step: so
    completions come from the weights that are about to be trained, in the context of the strategy and the precision."""

    def __init__(self, stream: PromptStream, num_groups: int):
        self.stream, self.num_groups = stream, num_groups
        self.state = DrawState()


class DrawLoader:
    """The dynamic-sampling iterable: it hands the draws to every DAPO step, which fills a batch from them.

    Lightning saves its `state_dict` in every checkpoint.
    """

    def __init__(self, draws: PromptDraws, num_steps: int):
        self.draws, self._num_steps = draws, num_steps

    def __len__(self) -> int:
        return self._num_steps

    def __iter__(self) -> Iterator[PromptDraws]:
        return repeat(self.draws, self._num_steps)

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.draws.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.draws.state = state_dict["state"]


@dataclass(frozen=True)
class Batch:
    """The groups of one DAPO step, and how they were found. It is the same on every rank, except that a rank may know
    the old log-probs of its own groups only.

    Args:
        groups: those that are trained on, in order of their numbers; the first `num_carried` come from the last step.
        surplus: useful groups that are carried to the next step.
        reasons: how many of the prompts that this step used up had which verdict.
        records: of all groups that were generated, those trained on included.
        num_drawn: number of prompts that the run has used up after this step.
        num_rounds: how many times prompts were generated.
        keep_rate: as known after this step.
        warning: why the batch is short of groups, if it is.
    """

    groups: tuple[Group, ...]
    num_carried: int
    surplus: tuple[Group, ...]
    reasons: dict[str, int]
    records: tuple[GroupRecord, ...]
    num_drawn: int
    num_rounds: int
    keep_rate: KeepRate
    warning: str | None

    @property
    def used(self) -> list[GroupRecord]:
        """The records of the prompts that this step used up; the others will be drawn again, as if never generated."""
        return [record for record in self.records if record.number < self.num_drawn]

    @property
    def next_state(self) -> DrawState:
        """What the next step begins with."""
        return DrawState(self.num_drawn, self.keep_rate, self.surplus)

    def scores_PG(self) -> Tensor:
        """Rewards before shaping."""
        return torch.stack([group.scores_G() for group in self.groups]) if self.groups else torch.zeros(0, 2)

    def lengths_PG(self) -> Tensor:
        """Numbers of tokens that the policy wrote."""
        return torch.stack([group.lengths_G() for group in self.groups]) if self.groups else torch.zeros(0, 2)


def fill(draws: PromptDraws, generate: Generate, sampling: SamplingOption, ranks: Ranks = Ranks()) -> Batch:  # noqa: B008
    """Samples rounds of prompts until the wanted number of groups is kept, or the sampling option asks for no more.

    This loop is all there is to dynamic sampling. Which prompts a step uses up and which groups it trains on follow
    from the sizes of its rounds, which depend only on the keep rate within this step. What `AheadGenerator` generates
    ahead of them, or stops generating, has no influence; but if surplus groups are carried, the step uses up all it
    generated.

    All ranks run the same rounds, and the result is that of one process. `draws` does not change.

    Raises:
        SamplingError: if the batch is short of groups and the sampling option asks for an error.
    """
    wanted = draws.num_groups - len(draws.state.carried)
    source = AheadGenerator(
        generate, sampling, draws.stream, draws.state.num_drawn, wanted, draws.state.keep_rate, ranks
    )
    num_asked = rounds = 0
    while (missing := wanted - source.num_kept(num_asked)) > 0:
        keep_rate = source.num_kept(num_asked) / num_asked if num_asked else 1.0
        size = sampling.next_round(missing, keep_rate, rounds)
        if size == 0:  # the cap
            break
        num_asked, rounds = num_asked + size, rounds + 1
        source.generate(num_asked, is_last=sampling.next_round(1, 1.0, rounds) == 0)
    return _batch(draws, source, sampling, draws.state.num_drawn + num_asked, ranks)


def _batch(draws: PromptDraws, source: AheadGenerator, sampling: SamplingOption, end: int, ranks: Ranks) -> Batch:
    """The first groups kept among the prompts before number `end`, and the surplus if it is carried."""
    carried, num_groups = draws.state.carried, draws.num_groups
    end, limit = (source.end, 2 * num_groups - 1) if sampling.carries else (end, num_groups)
    kept = sorted(ranks.gather(source.kept), key=lambda group: group.number)
    taken = [*carried, *(group for group in kept if group.number < end)][:limit]
    if sampling.carries and len(taken) == limit:
        end = taken[-1].number + 1  # there is no room for the rest: it is drawn again
    groups = tuple(taken[:num_groups])
    surplus = tuple(group for group in taken[num_groups:] if group.scores_G().isfinite().all())
    reasons = Counter(judged.verdict.reason for number, judged in source.judged.items() if number < end)
    return Batch(
        groups=groups,
        num_carried=len(carried),
        surplus=surplus,
        reasons=dict(reasons),
        records=tuple(judged.record for judged in source.judged.values()),
        num_drawn=end,
        num_rounds=source.num_rounds,
        keep_rate=source.keep_rate,
        warning=sampling.shortfall(num_groups - len(groups), dict(reasons)),
    )
