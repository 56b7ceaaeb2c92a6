"""Converts groups to plain values and tensors, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.types import Grade, Group, Trajectory


def plain(group: Group) -> dict[str, Any]:
    """Returns a group as plain values and tensors. Its prompt is represented by its number."""
    kept = {field.name: getattr(group, field.name) for field in fields(group) if field.name != "prompt"}
    return kept | {
        "trajectories": [asdict(trajectory) for trajectory in group.trajectories],
        "grades": [asdict(grade) for grade in group.grades],
        "turn_grades": [[asdict(grade) for grade in grades] for grades in group.turn_grades],
    }


def restored(state: Mapping[str, Any], stream: PromptStream) -> Group:
    """Returns the group that `plain` has converted."""
    (numbered,) = stream.take(state["number"], state["number"] + 1)
    parts = {
        "trajectories": tuple(Trajectory(**trajectory) for trajectory in state["trajectories"]),
        "grades": tuple(Grade(**grade) for grade in state["grades"]),
        "turn_grades": tuple(tuple(Grade(**grade) for grade in grades) for grades in state["turn_grades"]),
    }
    return Group(**{**state, **parts, "prompt": numbered.prompt})
