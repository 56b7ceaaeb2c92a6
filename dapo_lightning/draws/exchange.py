"""What ranks tell each other about the groups that they have generated.

Every rank needs the numbers of all kept groups: scores, lengths, loss masks. They travel as small Python objects. The
tensors of a completion are needed only by the rank that trains on it. They travel as one flat tensor for each field.
On all other ranks, these tensors have a shape but no values (they are on the device "meta"); computing with them fails.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.types import Group, Prompt, Trajectory

TRAINED_ON = ("tokens_T", "logps_T", "old_logps_T")
ALL = (*TRAINED_ON, "entropies_T")
_UNKNOWN = Prompt("", "", "")  # every rank has the prompts
_TRAVELS_AS = {"tokens_T": torch.int32}  # half the size; all others are float32

GoesTo = Callable[[int, int], Sequence[int]]
"""The ranks that receive completion g of group p."""


@dataclass(frozen=True)
class Outline:
    """A group without its prompt, its texts and the values of its tensors.

    Args:
        home: the rank that generated the group.
        masks: loss masks of the trajectories, compressed.
    """

    home: int
    group: Group
    masks: tuple[bytes, ...]

    @staticmethod
    def of(group: Group, home: int) -> Outline:
        masks = tuple(zlib.compress(np.packbits(t.loss_mask_T.numpy()).tobytes(), 1) for t in group.trajectories)
        bare = replace(group, prompt=_UNKNOWN, texts=(), trajectories=tuple(map(_without_values, group.trajectories)))
        return Outline(home, bare, masks)

    def restored(self, stream: PromptStream) -> Group:
        """Returns the group with its prompt and its loss masks."""
        (numbered,) = stream.take(self.group.number, self.group.number + 1)
        trajectories = (
            replace(trajectory, loss_mask_T=_unpacked(mask, len(trajectory.tokens_T)))
            for trajectory, mask in zip(self.group.trajectories, self.masks, strict=True)
        )
        return replace(self.group, prompt=numbered.prompt, trajectories=tuple(trajectories))


def announced(mine: Sequence[Group], stream: PromptStream, ranks: Ranks) -> dict[int, tuple[int, Group]]:
    """Tells all ranks of groups that one of them has generated. Returns the home and the group by number of prompt."""
    if ranks.size == 1:
        return {group.number: (ranks.rank, group) for group in mine}
    whole = {group.number: group for group in mine}
    outlines = {outline.group.number: outline for outline in ranks.gather([Outline.of(g, ranks.rank) for g in mine])}
    return {n: (outline.home, whole.get(n) or outline.restored(stream)) for n, outline in outlines.items()}


def known_to_all(groups: Sequence[tuple[int | None, Group]], ranks: Ranks) -> tuple[Group, ...]:
    """Sends all tensors and texts of groups, each given with its home, to all ranks."""
    if not groups or ranks.size == 1:
        return tuple(group for _, group in groups)
    everyone = range(ranks.size)
    texts = dict(ranks.gather([(group.number, group.texts) for home, group in groups if home == ranks.rank]))
    homes, outlines = zip(*groups, strict=True)
    full = completed(outlines, homes, lambda p, g: everyone, ALL, ranks)
    return tuple(replace(group, texts=texts.get(group.number, group.texts)) for group in full)


def completed(
    groups: Sequence[Group], homes: Sequence[int | None], goes_to: GoesTo, names: Sequence[str], ranks: Ranks
) -> tuple[Group, ...]:
    """Sends tensors of completions to the ranks that need them, and returns the groups with what was received.

    Args:
        groups: the same on all ranks, except that only the home of a group has its values.
        homes: a rank for each group; None if all ranks have its values.
        names: fields of `Trajectory`, tensors of shape [T] or None.
    """
    if ranks.size == 1:
        return tuple(groups)
    sent: list[list[Trajectory]] = [[] for _ in range(ranks.size)]
    came: list[list[tuple[int, int]]] = [[] for _ in range(ranks.size)]
    for p, (group, home) in enumerate(zip(groups, homes, strict=True)):
        if home is None:
            continue
        for g, trajectory in enumerate(group.trajectories):
            receivers = [rank for rank in goes_to(p, g) if rank != home]
            if home == ranks.rank:
                for to in receivers:
                    sent[to].append(trajectory)
            elif ranks.rank in receivers:
                came[home].append((p, g))
    found = {place: groups[place[0]].trajectories[place[1]] for part in came for place in part}
    for name in names:
        dtype, expected = _TRAVELS_AS.get(name, torch.float32), {p: getattr(t, name) for p, t in found.items()}
        known = [[place for place in part if expected[place] is not None] for part in came]
        flat = [_flat([value for t in part if (value := getattr(t, name)) is not None], dtype) for part in sent]
        tensors = ranks.swap(flat, [sum(len(expected[place]) for place in part) for part in known])
        for part, tensor in zip(known, tensors, strict=True):
            for place, piece in zip(part, tensor.split([len(expected[place]) for place in part]), strict=True):
                found[place] = replace(found[place], **{name: piece.to(expected[place].dtype, copy=True)})
    return tuple(
        replace(group, trajectories=tuple(found.get((p, g), t) for g, t in enumerate(group.trajectories)))
        for p, group in enumerate(groups)
    )


def _flat(tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=dtype), *(tensor.to(dtype) for tensor in tensors)])


def _without_values(trajectory: Trajectory) -> Trajectory:
    bare: dict[str, Any] = {n: value.to("meta") for n, value in vars(trajectory).items() if isinstance(value, Tensor)}
    return replace(trajectory, **bare)


def _unpacked(mask: bytes, length: int) -> Tensor:
    bits = np.unpackbits(np.frombuffer(zlib.decompress(mask), dtype=np.uint8), count=length)
    return torch.from_numpy(bits).bool()
