"""Marks tokens for options that need the whole mini-batch, not only a micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.algorithm.tokens import AllTokens
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.step.experience import Row

Statistics = Callable[[Sequence[Row]], list[tuple[Tensor, ...]]]
"""Rows -> log-probs and entropies of each row's tokens, [T], on the CPU."""


@dataclass(frozen=True)
class _Part:
    """The tokens of one row that are in the loss."""

    place: int
    tokens: AllTokens


def with_marks(rows: Sequence[Row], algorithm: Algorithm, statistics: Statistics, ranks: Ranks) -> list[Row]:
    """Returns the rows of this rank with the marks of the algorithm's options. Without such options, nothing is
    computed. All ranks must call it together."""
    if not algorithm.has_marks:
        return list(rows)
    mine = [_part(row, *found) for row, found in zip(rows, statistics(rows), strict=True)]
    parts = sorted(ranks.gather(mine), key=lambda part: part.place)
    columns = zip(*(vars(part.tokens).values() for part in parts), strict=True)
    marks = algorithm.marks(AllTokens(*map(torch.cat, columns)))
    ends = accumulate((len(part.tokens.ids_N) for part in parts), initial=0)
    slices = {part.place: slice(*bounds) for part, bounds in zip(parts, pairwise(ends), strict=True)}

    def marked(row: Row) -> Row:
        mask_T = row.trajectory.loss_mask_T
        found = {name: values_N[slices[row.place]] for name, values_N in marks.items()}
        zeros = {name: torch.zeros(mask_T.shape, dtype=values.dtype) for name, values in found.items()}
        return replace(row, marks={name: zeros[name].masked_scatter(mask_T, found[name]) for name in marks})

    return [marked(row) for row in rows]


def _part(row: Row, logps_T: Tensor, entropies_T: Tensor) -> _Part:
    trajectory, mask_T = row.trajectory, row.trajectory.loss_mask_T
    assert trajectory.old_logps_T is not None
    values = (trajectory.tokens_T, logps_T, trajectory.old_logps_T, entropies_T, row.advantages.expand(len(mask_T)))
    return _Part(row.place, AllTokens(*(value[mask_T] for value in values)))
