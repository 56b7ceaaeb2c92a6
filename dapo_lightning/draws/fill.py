"""Dynamic sampling: draws prompts until a batch of useful groups is full (lines 2 to 8 of Algorithm 1)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from dapo_lightning.algorithm import SamplingOption
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.ahead import AheadGenerator, Generate, KeepRate
from dapo_lightning.draws.exchange import announced, known_to_all
from dapo_lightning.draws.graded import require_grades
from dapo_lightning.draws.partial import InFlight
from dapo_lightning.draws.plain import plain, restored
from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.types import Group, Verdict


@dataclass(frozen=True)
class DrawState:
    """The state of the draws when a DAPO step begins. It is the same on every rank.

    `num_drawn` counts the prompts that earlier steps have used up. `carried` holds useful groups left over from the
    last step, and `unfinished` those that it has left in flight (`sampling.partial`).
    """

    num_drawn: int = 0
    keep_rate: KeepRate = field(default_factory=KeepRate)
    carried: tuple[Group, ...] = ()
    unfinished: tuple[Group, ...] = ()


class PromptDraws:
    """The prompts of a run, and the number of groups that a DAPO step needs. `fill` samples from them inside the step,
    so that completions come from the weights that are about to be trained, under the same strategy and precision."""

    def __init__(self, stream: PromptStream, num_groups: int):
        self.stream, self.num_groups = stream, num_groups
        self.state = DrawState()


class DrawLoader:
    """The dynamic-sampling iterable: it hands the draws to every DAPO step, which fills a batch from them.

    Lightning saves its `state_dict` in every checkpoint. It contains only plain values and tensors, so that loading it
    cannot run code. Carried prompts are saved as their numbers.
    """

    def __init__(self, draws: PromptDraws, num_steps: int):
        self.draws, self._num_steps = draws, num_steps

    def __len__(self) -> int:
        return self._num_steps

    def __iter__(self) -> Iterator[PromptDraws]:
        return repeat(self.draws, self._num_steps)

    def state_dict(self) -> dict[str, Any]:
        state = self.draws.state
        return {
            "num_drawn": state.num_drawn,
            "keep_rate": asdict(state.keep_rate),
            "carried": list(map(plain, state.carried)),
            "unfinished": list(map(plain, state.unfinished)),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.draws.state = DrawState(
            state_dict["num_drawn"],
            KeepRate(**state_dict["keep_rate"]),
            *(
                tuple(restored(group, self.draws.stream) for group in state_dict[name])
                for name in ("carried", "unfinished")
            ),
        )


@dataclass(frozen=True)
class Batch:
    """The groups of one DAPO step, and how they were found. It is the same on every rank, except that a rank has only
    the texts of groups that it generated, and the values of tensors only of these groups and of the completions that
    it trains on (see `dapo_lightning.draws.exchange`); `generated` differs, too.

    Args:
        groups: the groups to train on, in order of their numbers; the first `num_carried` come from the last step.
        surplus: useful groups that are carried to the next step.
        reasons: number of prompts with each verdict, among those that this step used up.
        records: records of all groups that were generated, including those that are trained on.
        num_drawn: number of prompts that the run has used up after this step.
        num_rounds: how many times prompts were generated.
        keep_rate: keep rate after this step.
        warning: why the batch is short of groups; None if it is full.
        homes: for each group, the rank that generated it; None if all ranks have it whole.
        owners: for each group, the rank that trains on each of its completions, or None; empty: this rank trains on
            all of them.
        generated: all groups that this rank generated, with the decisions about them.
        unfinished: the groups that are left in flight; None without partial rollouts.
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
    homes: tuple[int | None, ...] = ()
    owners: tuple[tuple[int | None, ...], ...] = ()
    generated: tuple[tuple[Group, Verdict], ...] = ()
    unfinished: tuple[Group, ...] | None = None

    @property
    def used(self) -> list[GroupRecord]:
        """The records of the prompts that this step used up. The others will be drawn again."""
        return [record for record in self.records if record.number < self.num_drawn]

    @property
    def next_state(self) -> DrawState:
        """The state for the next step."""
        return DrawState(self.num_drawn, self.keep_rate, self.surplus, self.unfinished or ())

    def is_trained_by(self, rank: int, p: int, g: int) -> bool:
        """Whether a rank trains on completion g of group p."""
        return not self.owners or self.owners[p][g] == rank

    def scores_PG(self) -> Tensor:
        """Rewards before shaping."""
        return torch.stack([group.scores_G() for group in self.groups]) if self.groups else torch.zeros(0, 2)

    def lengths_PG(self) -> Tensor:
        """Numbers of tokens that the policy wrote."""
        return torch.stack([group.lengths_G() for group in self.groups]) if self.groups else torch.zeros(0, 2)


def fill(draws: PromptDraws, generate: Generate, sampling: SamplingOption, ranks: Ranks = Ranks()) -> Batch:  # noqa: B008
    """Samples rounds of prompts until the wanted number of groups is kept, or the sampling option asks for no more.

    This loop is the whole of dynamic sampling. The sizes of its rounds determine which prompts a step uses up and which
    groups it trains on, and they depend only on the keep rate within this step. `AheadGenerator` has no influence on
    them, whatever it generates ahead of demand; but if surplus groups are carried, the step uses up everything that was
    generated.

    All ranks run the same rounds, with the same result as a single process. `draws` does not change.

    Raises:
        RewardError: if nothing in this step could be graded.
        SamplingError: if the batch is short of groups and the sampling option asks for an error.
    """
    if (num_tokens := getattr(sampling, "partial", None)) is not None:
        return _fill_in_slices(draws, generate, sampling, num_tokens, ranks)
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
    end, limit = draws.state.num_drawn + num_asked, draws.num_groups
    if sampling.carries:
        end, limit = source.end, 2 * draws.num_groups - 1
    return _batch(draws, source, sampling, end, limit, ranks)


def _fill_in_slices(
    draws: PromptDraws, generate: Generate, sampling: SamplingOption, num_tokens: int, ranks: Ranks
) -> Batch:
    """The same with partial rollouts. All groups that have been started come to an end, in this step or a later one."""
    state = draws.state
    source = InFlight(
        generate, sampling, draws.stream, num_tokens, state.unfinished, state.num_drawn, state.keep_rate, ranks
    )
    source.fill(draws.num_groups, len(state.carried))
    batch = _batch(draws, source, sampling, source.end, sys.maxsize, ranks)  # groups in slices are not drawn again
    return replace(batch, unfinished=tuple(source.unfinished))


def _batch(
    draws: PromptDraws,
    source: AheadGenerator | InFlight,
    sampling: SamplingOption,
    end: int,
    limit: int,
    ranks: Ranks,
) -> Batch:
    """Takes the first `limit` kept groups, including carried ones, among the prompts before number `end`. Those that
    the step does not train on are carried."""
    carried, num_groups = draws.state.carried, draws.num_groups
    kept = sorted(number for number, judged in source.judged.items() if judged.verdict.keep and number < end)
    numbers = [*(group.number for group in carried), *kept][:limit]
    if sampling.carries and len(numbers) == limit:
        end = numbers[-1] + 1  # the rest does not fit and is drawn again
    new = announced([group for group in source.kept if group.number in numbers], draws.stream, ranks)
    taken = [*((None, group) for group in carried), *(new[number] for number in numbers[len(carried) :])]
    surplus = [(home, group) for home, group in taken[num_groups:] if group.scores_G().isfinite().all()]
    taken = taken[:num_groups]
    reasons = Counter(judged.verdict.reason for number, judged in source.judged.items() if number < end)
    require_grades([judged.record for number, judged in source.judged.items() if number < end], "a DAPO step")
    return Batch(
        groups=tuple(group for _, group in taken),
        num_carried=min(len(carried), len(taken)),
        surplus=known_to_all(surplus, ranks),
        reasons=dict(reasons),
        records=tuple(judged.record for judged in source.judged.values()),
        num_drawn=end,
        num_rounds=source.num_rounds,
        keep_rate=source.keep_rate,
        warning=sampling.shortfall(num_groups - len(taken), dict(reasons)),
        homes=tuple(home for home, _ in taken),
        generated=tuple(source.generated),
    )
