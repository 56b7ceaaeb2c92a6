"""The promise of N useful groups, and the iterable that makes such promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dapo_lightning.algorithm import SamplingOption
from dapo_lightning.data.stream import PromptStream
from dapo_lightning.ranks import Ranks
from dapo_lightning.types import Group, PromptDraw

Sampler = Callable[[Sequence[PromptDraw]], Sequence[Group]]


@dataclass(frozen=True)
class Filled:
    """What filling a draw gave. The same on every rank.

    `groups` are trained on, in draw order; `seen` are the reasons of all groups generated; `warning` says why the
    batch is short of groups, if it is.
    """

    groups: list[Group]
    reasons: dict[str, int]
    num_rounds: int
    warning: str | None

    @property
    def num_groups_generated(self) -> int:
        return sum(self.reasons.values())


class GroupDraw:
    """ "N useful groups, please": a promise that the training step redeems.

    Nothing is sampled before `fill`, so that completions come from the weights that are about to be trained, inside
    the strategy's and the precision's context.
    """

    def __init__(self, iterable: GroupDraws):
        self._iterable = iterable

    def fill(self, sample: Sampler, ranks: Ranks = Ranks()) -> Filled:  # noqa: B008 (frozen)
        """Samples rounds of prompts until the wanted number of groups is kept.

        All ranks run the same rounds: each samples its share of a round, verdicts are exchanged, and the next round
        is decided on all of them. Kept groups are then exchanged too, so that every rank knows the whole
        mini-batch (its denominators need that) and none is left short. The result is what one process would get.

        Args:
            sample: prompts -> graded groups, in order; called once per round with this rank's share.

        Raises:
            SamplingError: if the rounds did not suffice and the sampling option says so. The prompt
                cursor is left where it was, as it is when `sample` raises.
        """
        source, wanted = self._iterable, self._iterable.num_groups
        cursor = source.num_drawn
        reasons: Counter[str] = Counter()
        mine: list[Group] = []
        num_kept = num_rounds = 0
        while size := source.sampling.next_round(wanted - num_kept, reasons.total(), num_kept, num_rounds):
            groups = sample(ranks.mine(source.stream.draws(cursor, size)))
            verdicts = [source.sampling.verdict(group) for group in groups]
            mine += [group for group, verdict in zip(groups, verdicts, strict=True) if verdict.keep]
            everywhere = ranks.gather(verdicts)
            reasons.update(verdict.reason for verdict in everywhere)
            num_kept += sum(verdict.keep for verdict in everywhere)
            cursor += size
            num_rounds += 1
        warning = source.sampling.at_end(wanted - num_kept, reasons)
        kept = sorted(ranks.gather(mine), key=lambda group: group.draw.number)
        source.num_drawn = cursor
        return Filled(kept[:wanted], dict(reasons), num_rounds, warning)


class GroupDraws:
    """The dynamic-sampling iterable: one `GroupDraw` per DAPO step.

    Lightning saves its `state_dict` in every checkpoint: how many prompts have been drawn is all there is to it.
    """

    def __init__(self, stream: PromptStream, sampling: SamplingOption, num_groups: int, num_steps: int):
        self.stream, self.sampling, self.num_groups, self.num_steps = stream, sampling, num_groups, num_steps
        self.num_drawn = 0

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[GroupDraw]:
        for _ in range(self.num_steps):
            yield GroupDraw(self)

    def state_dict(self) -> dict[str, Any]:
        return {"num_drawn": self.num_drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_drawn = state["num_drawn"]
