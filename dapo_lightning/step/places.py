"""The places of completions in a batch: which of them a rank trains on, and what is found out about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.fill import Batch
from dapo_lightning.types import Group, Trajectory

Place = tuple[int, int]
"""The place of a group in its batch, and of a completion in its group."""


def places_of(batch: Batch, ranks: Ranks) -> dict[Place, tuple[tuple[int, ...], Trajectory]]:
    """Returns the prompts and the completions that this rank trains on, by their places."""
    return {
        (p, g): (group.prompt_tokens, trajectory)
        for p, group in enumerate(batch.groups)
        for g, trajectory in enumerate(group.trajectories)
        if batch.is_trained_by(ranks.rank, p, g)
    }


def with_fields(groups: Sequence[Group], found: Mapping[Place, Mapping[str, Any]]) -> tuple[Group, ...]:
    """Sets fields of trajectories, by their places."""

    def completed(p: int, group: Group) -> Group:
        trajectories = (replace(t, **found.get((p, g), {})) for g, t in enumerate(group.trajectories))
        return replace(group, trajectories=tuple(trajectories))

    return tuple(completed(p, group) for p, group in enumerate(groups))
