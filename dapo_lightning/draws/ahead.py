"""Generates groups ahead of demand to save time. This changes the cost of a step but not the groups that it trains on,
unless surplus groups are carried to the next step."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dapo_lightning.algorithm import SamplingOption
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.types import Group, NumberedPrompt, PendingGroup, Slice, Verdict


class Generate(Protocol):
    """Prompts -> their groups in order. Each sequence holds groups that are generated together, once it is requested.
    With a slice, they may be unfinished."""

    def __call__(
        self, prompts: Sequence[NumberedPrompt], part: Slice | None = None, /
    ) -> Iterable[Sequence[PendingGroup]]: ...


@dataclass(frozen=True)
class KeepRate:
    """The share of recent groups that were kept; 1 before the first group.

    Each step weighs 0.7 times as much as the next, so the rate follows a learning policy within about three steps.
    """

    seen: float = 0.0
    kept: float = 0.0

    @property
    def value(self) -> float:
        return self.kept / self.seen if self.seen else 1.0

    def decayed(self) -> KeepRate:
        """Returns the same rate with less weight, for the next step."""
        return KeepRate(0.7 * self.seen, 0.7 * self.kept)

    def updated(self, verdicts: Sequence[Verdict]) -> KeepRate:
        """Returns the rate that includes these verdicts."""
        return KeepRate(self.seen + len(verdicts), self.kept + sum(verdict.keep for verdict in verdicts))


@dataclass(frozen=True)
class Judged:
    """The record of a group and the decision about it. Ranks exchange these."""

    record: GroupRecord
    verdict: Verdict


class AheadGenerator:
    """Generates and judges the prompts of one DAPO step, on demand and ahead of it.

    With each requested round, it also generates the further prompts that will probably be needed, judging by the recent
    keep rate. It does not if no further round can follow and surplus groups are dropped. Generation stops early,
    between two batches of the rollout, as soon as enough groups are known to be kept. It does not if surplus groups are
    carried to the next step, which can use them.

    Every rank generates its share of the prompts. The ranks then exchange verdicts and records, so that all have the
    same information. A rank may stop as soon as it has kept enough groups itself, because its remaining prompts have
    higher numbers.

    Attributes:
        judged: groups of all ranks, by prompt number.
        generated: the groups that this rank generated, with the decisions about them.
        num_rounds: how many times prompts were generated.
        end: number after the last prompt that was given to the ranks.
    """

    def __init__(
        self,
        generate: Generate,
        sampling: SamplingOption,
        stream: PromptStream,
        start: int,
        wanted: int,
        keep_rate: KeepRate,
        ranks: Ranks,
    ):
        self._generate, self._sampling, self._stream, self._ranks = generate, sampling, stream, ranks
        self._start, self._wanted = start, wanted
        self.keep_rate = keep_rate.decayed()
        self.judged: dict[int, Judged] = {}
        self.generated: list[tuple[Group, Verdict]] = []
        self.num_rounds, self.end = 0, start

    @property
    def kept(self) -> list[Group]:
        """The kept groups that this rank generated."""
        return [group for group, verdict in self.generated if verdict.keep]

    def num_kept(self, count: int | None = None) -> int:
        """Returns how many of the first `count` prompts of this step (None: of all) are known to be kept."""
        stop = math.inf if count is None else self._start + count
        return sum(judged.verdict.keep for number, judged in self.judged.items() if number < stop)

    def generate(self, count: int, is_last: bool) -> None:
        """Generates and judges the first `count` prompts of this step, or as many of them as are needed.

        Args:
            is_last: whether no further round can follow; then nothing is generated ahead of demand.
        """
        missing = self._wanted - self.num_kept()
        if missing <= 0 or self._start + count <= self.end:
            return
        has_no_use = is_last and not self._sampling.carries
        ahead = 0 if has_no_use else self._sampling.next_round(missing, self.keep_rate.value, 0)
        begin, self.end = self.end, max(self._start + count, self.end + ahead)
        pending = self._generate(self._ranks.mine(self._stream.take(begin, self.end)))
        mine = self._judge(pending, enough=math.inf if self._sampling.carries else missing)
        self.generated += [(group, judged.verdict) for group, judged in mine]
        everyone = self._ranks.gather([judged for _, judged in mine])
        self.judged |= {judged.record.number: judged for judged in everyone}
        self.keep_rate = self.keep_rate.updated([judged.verdict for judged in everyone])
        self.num_rounds += 1

    def _judge(self, pending: Iterable[Sequence[PendingGroup]], enough: float) -> list[tuple[Group, Judged]]:
        """Returns the groups with their verdicts, in order. Generation stops once `enough` are known to be kept.

        It waits for grades as late as possible, so that grading and generation overlap: only when the groups without a
        grade could complete the number, and at the end.
        """
        judged: list[tuple[Group, Judged]] = []
        ungraded: deque[PendingGroup] = deque()
        num_kept = 0

        def judge_next() -> bool:
            group = ungraded.popleft()()
            verdict = self._sampling.verdict(group)
            judged.append((group, Judged(GroupRecord.of(group), verdict)))
            return verdict.keep

        for generated in pending:
            ungraded.extend(generated)
            while num_kept < enough <= num_kept + len(ungraded):
                num_kept += judge_next()
            if num_kept >= enough:
                break
        while ungraded:
            judge_next()
        return judged
