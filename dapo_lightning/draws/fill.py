"""The promise of N useful groups, and the iterable that makes such promises."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from dapo_lightning.algorithm import SamplingOption
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.types import Group, PendingGroup, PromptDraw, Verdict

Sampler = Callable[[Sequence[PromptDraw]], Iterable[Sequence[PendingGroup]]]
"""Draws -> their groups, in order: those generated together in one sequence, which is generated when asked for."""


@dataclass(frozen=True)
class KeepRate:
    """The share of groups that were kept, over the steps of late; 1 before any was seen.

    A step counts 0.7 times what the step after it counts: it takes some three steps to follow a policy that learns.
    """

    seen: float = 0.0
    kept: float = 0.0

    @property
    def value(self) -> float:
        return self.kept / self.seen if self.seen else 1.0

    def faded(self) -> KeepRate:
        """The same rate, of less weight: a step has passed."""
        return KeepRate(0.7 * self.seen, 0.7 * self.kept)

    def having_seen(self, verdicts: Sequence[Verdict]) -> KeepRate:
        return KeepRate(self.seen + len(verdicts), self.kept + sum(verdict.keep for verdict in verdicts))


@dataclass(frozen=True)
class Filled:
    """What filling a draw gave. The same on every rank.

    `groups` are trained on, in draw order, the first `num_carried` of them from the step before; `surplus` is kept for
    the next step; `reasons` counts the groups of the prompts that the step used up, which are those before `cursor`;
    `num_generated` counts all groups, `num_rounds` how often some were asked for; `keep_rate` is what is known of it
    now; `warning` says why the batch is short of groups, if it is.
    """

    groups: list[Group]
    num_carried: int
    surplus: list[Group]
    reasons: dict[str, int]
    cursor: int
    num_generated: int
    num_rounds: int
    keep_rate: float
    warning: str | None


class GroupDraw:
    """ "N useful groups, please": a promise that the training step redeems.

    Nothing is sampled before `fill`, so that completions come from the weights that are about to be trained, inside
    the strategy's and the precision's context.
    """

    def __init__(self, iterable: GroupDraws):
        self._iterable = iterable

    def fill(self, sample: Sampler, ranks: Ranks = Ranks()) -> Filled:  # noqa: B008 (frozen)
        """Samples rounds of prompts until the wanted number of groups is kept.

        What is trained on, and which prompts the step uses up, follows from rounds whose sizes are told by this step's
        own keep rate (`_num_asked`). The keep rate of the steps before only says how many of these prompts to generate
        at once, and generation stops early: this saves time and cannot change a run. With carried groups it can: a
        step then uses up what it generated, and hands on what is useful, N - 1 groups at most.

        All ranks run the same rounds: each samples its share of a round, verdicts are exchanged, and the next round
        is decided on all of them. Kept groups are then exchanged too, so that every rank knows the whole
        mini-batch (its denominators need that) and none is left short. The result is what one process would get.

        Args:
            sample: prompts -> groups; called once per round with this rank's share.

        Raises:
            SamplingError: if the rounds did not suffice and the sampling option says so. The prompt
                cursor is left where it was, as it is when `sample` raises.
        """
        source, sampling = self._iterable, self._iterable.sampling
        start, wanted = source.num_drawn, source.num_groups - len(source.carried)
        keep_rate = source.keep_rate.faded()
        mine: list[Group] = []
        verdicts: dict[int, Verdict] = {}  # of all ranks, by draw number
        end, asked, num_kept, num_rounds = start, start + _num_asked(sampling, [], wanted), 0, 0
        while num_kept < wanted and end < asked:
            begin, end = end, max(asked, end + sampling.next_round(wanted - num_kept, keep_rate.value, 0))
            generated = sample(ranks.mine(source.stream.draws(begin, end - begin)))
            judged = self._judged(generated, enough=math.inf if sampling.carries else wanted - num_kept)
            mine += [group for group, verdict in judged if verdict.keep]
            everywhere = dict(ranks.gather([(group.draw.number, verdict) for group, verdict in judged]))
            verdicts |= everywhere
            keep_rate = keep_rate.having_seen(list(everywhere.values()))
            num_kept = sum(verdict.keep for verdict in verdicts.values())
            asked = start + _num_asked(sampling, [verdicts[number] for number in sorted(verdicts)], wanted)
            num_rounds += 1

        cursor, most = (end, 2 * source.num_groups - 1) if sampling.carries else (asked, source.num_groups)
        found = sorted(ranks.gather(mine), key=lambda group: group.draw.number)
        taken = [*source.carried, *(group for group in found if group.draw.number < cursor)][:most]
        if sampling.carries and len(taken) == most:
            cursor = taken[-1].draw.number + 1  # those that there is no room for are drawn again
        groups, surplus, num_carried = taken[: source.num_groups], taken[source.num_groups :], len(source.carried)
        reasons = dict(Counter(verdict.reason for number, verdict in verdicts.items() if number < cursor))
        warning = sampling.at_end(source.num_groups - len(groups), reasons)
        source.num_drawn, source.keep_rate, source.carried = cursor, keep_rate, surplus
        return Filled(
            groups, num_carried, surplus, reasons, cursor, len(verdicts), num_rounds, keep_rate.value, warning
        )

    def _judged(self, pending: Iterable[Sequence[PendingGroup]], enough: float) -> list[tuple[Group, Verdict]]:
        """Groups with their verdicts, in draw order; no more are generated once `enough` are known to be kept.

        Grades are waited for late, to be made while the next groups are generated: only when these might not be needed,
        and at the end. What one rank keeps is enough for all: whatever else it would generate comes later.
        """
        judged: list[tuple[Group, Verdict]] = []
        waiting: deque[PendingGroup] = deque()
        num_kept = 0

        def judge_next() -> bool:
            group = waiting.popleft()()
            judged.append((group, self._iterable.sampling.verdict(group)))
            return judged[-1][1].keep

        for generated in pending:
            waiting.extend(generated)
            while num_kept < enough <= num_kept + len(waiting):
                num_kept += judge_next()
            if num_kept >= enough:
                break
        while waiting:
            judge_next()
        return judged

    def carry(self, surplus: Sequence[Group]) -> None:
        """Replaces the groups that the next step begins with by the same with more known about them."""
        self._iterable.carried = list(surplus)


class GroupDraws:
    """The dynamic-sampling iterable: one `GroupDraw` per DAPO step.

    Lightning saves its `state_dict` in every checkpoint: how many prompts have been drawn, the keep rate, and the
    groups carried over are all there is to it. The same on every rank.
    """

    def __init__(self, stream: PromptStream, sampling: SamplingOption, num_groups: int, num_steps: int):
        self.stream, self.sampling, self.num_groups, self.num_steps = stream, sampling, num_groups, num_steps
        self.num_drawn, self.keep_rate = 0, KeepRate()
        self.carried: list[Group] = []

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[GroupDraw]:
        for _ in range(self.num_steps):
            yield GroupDraw(self)

    def state_dict(self) -> dict[str, Any]:
        return {"num_drawn": self.num_drawn, "keep_rate": self.keep_rate, "carried": self.carried}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_drawn, self.keep_rate, self.carried = state["num_drawn"], state["keep_rate"], state["carried"]


def _num_asked(sampling: SamplingOption, verdicts: Sequence[Verdict], wanted: int) -> int:
    """How many draws are asked for by rounds whose sizes are told by the keep rate among the step's own draws.

    `verdicts` are those on the first draws, without a gap up to the one that completes the wanted number. The answer
    is final once that number, or the end of the rounds, is reached; until then it is what is known to be needed.
    """
    num_kept = list(accumulate((verdict.keep for verdict in verdicts), initial=0))  # of the first 0, 1, 2 ... draws
    if wanted in num_kept:
        num_kept = num_kept[: num_kept.index(wanted) + 1]
    asked = num_rounds = 0
    while asked < len(num_kept):
        keep_rate = num_kept[asked] / asked if asked else 1.0
        size = sampling.next_round(wanted - num_kept[asked], keep_rate, num_rounds)
        if size == 0:
            break
        asked, num_rounds = asked + size, num_rounds + 1
    return asked
