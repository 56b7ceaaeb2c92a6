"""Partial rollouts: a step ends as soon as its batch is full, and unfinished completions go on in the next step.

Groups are generated in slices of `sampling.partial` tokens. A group is graded once all of its completions have ended.
Between two slices, finished groups make room for new ones, so that as many groups are in flight as a step will probably
need. Each token keeps the log-prob of the policy that wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence

from dapo_lightning.algorithm import SamplingOption
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.ahead import Generate, Judged, KeepRate
from dapo_lightning.draws.exchange import announced, known_to_all
from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.types import Group, NumberedPrompt, Slice, Verdict


class InFlight:
    """The groups that are in flight in one DAPO step.

    Each slice is divided among the ranks. All ranks then know all unfinished groups, and the verdicts on all others.

    Args:
        num_tokens: how many tokens a completion is given in a slice.
        unfinished: the groups that the last step has left in flight.
        start: number of the next prompt.

    Attributes:
        judged, generated, num_rounds, end: as in `AheadGenerator`; finished groups only, and a slice is a round.
        unfinished: the groups in flight, by number.
    """

    def __init__(
        self,
        generate: Generate,
        sampling: SamplingOption,
        stream: PromptStream,
        num_tokens: int,
        unfinished: Sequence[Group],
        start: int,
        keep_rate: KeepRate,
        ranks: Ranks,
    ):
        self._generate, self._sampling, self._stream, self._ranks = generate, sampling, stream, ranks
        self._num_tokens, self.unfinished, self.end = num_tokens, list(unfinished), start
        self.keep_rate = keep_rate.decayed()
        self.judged: dict[int, Judged] = {}
        self.generated: list[tuple[Group, Verdict]] = []
        self.num_rounds = 0

    @property
    def kept(self) -> list[Group]:
        """The kept groups that this rank has finished."""
        return [group for group, verdict in self.generated if verdict.keep]

    def fill(self, num_groups: int, num_carried: int) -> None:
        """Generates slices until `num_groups` groups, with those carried, can be trained on, at least one of them new,
        or until the sampling option asks for no more."""
        width = self._sampling.next_round(num_groups, self.keep_rate.value, 0)
        while width and sum(judged.verdict.keep for judged in self.judged.values()) < max(1, num_groups - num_carried):
            self._advance(width)
            width = self._sampling.next_round(num_groups, self.keep_rate.value, len(self.judged) // width)

    def _advance(self, width: int) -> None:
        """One slice, with so many new prompts that `width` groups are in flight."""
        begin, self.end = self.end, self.end + max(0, width - len(self.unfinished))
        prompts = [NumberedPrompt(group.number, group.prompt) for group in self.unfinished]
        prompts += self._stream.take(begin, self.end)
        part = Slice(self._num_tokens, {group.number: group for group in self.unfinished})
        groups = [pending() for batch in self._generate(self._ranks.mine(prompts), part) for pending in batch]
        judged = [(group, self._sampling.verdict(group)) for group in groups if group.is_finished]
        self.generated += judged
        everyone = self._ranks.gather([Judged(GroupRecord.of(group), verdict) for group, verdict in judged])
        self.judged |= {judged.record.number: judged for judged in everyone}
        self.keep_rate = self.keep_rate.updated([judged.verdict for judged in everyone])
        unfinished = announced([group for group in groups if not group.is_finished], self._stream, self._ranks)
        self.unfinished = list(known_to_all([unfinished[number] for number in sorted(unfinished)], self._ranks))
        self.num_rounds += 1
