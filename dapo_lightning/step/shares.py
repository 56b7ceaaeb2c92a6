"""Decides which rank trains on which completion, and sends it there.

The completions of a group may go to different ranks, because advantages and weights in the loss are computed from
numbers that all ranks know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.exchange import ALL, TRAINED_ON, completed
from dapo_lightning.draws.fill import Batch
from dapo_lightning.types import Group

Owners = tuple[tuple[int | None, ...], ...]
"""For each group, the rank that trains on each completion; None for completions outside the loss."""

UNEVEN = 1.05  # how many times its equal share a rank may get to keep groups whole


def parts(num_groups: int, num_gradient_steps: int) -> list[range]:
    """Returns the places of the groups of each mini-batch."""
    bounds = [round(i * num_groups / num_gradient_steps) for i in range(num_gradient_steps + 1)]
    return [range(*bound) for bound in pairwise(bounds)]


def exchange(batch: Batch, algorithm: Algorithm, num_gradient_steps: int, num_epochs: int, ranks: Ranks) -> Batch:
    """Gives each rank the completions that it trains on, with their tensors. If an option of the algorithm needs the
    tensors of all completions (`needs_trajectories`), all ranks get them."""
    owners = owners_of(batch.groups, algorithm, num_gradient_steps, num_epochs, ranks.size)
    everyone, needs_all = tuple(range(ranks.size)), algorithm.needs_trajectories

    def goes_to(p: int, g: int) -> Sequence[int]:
        owner = owners[p][g]
        return everyone if needs_all else () if owner is None else (owner,)

    groups = completed(batch.groups, batch.homes, goes_to, ALL if needs_all else TRAINED_ON, ranks)
    return replace(batch, groups=groups, owners=owners)


@contextmanager
def numbers_only(option: object) -> Iterator[None]:
    """Within the context, an option computes advantages or weights, on the CPU, for completions of all ranks.

    Raises:
        ValueError: if it reads values that this rank does not have.
    """
    try:
        yield
    except RuntimeError as error:
        if "meta" not in str(error):
            raise
        raise ValueError(
            f"{type(option).__name__} reads tokens, log-probs or entropies of completions that other ranks train on: "
            "add needs_trajectories = True to its class, so that all ranks get them."
        ) from error


def owners_of(
    groups: Sequence[Group], algorithm: Algorithm, num_gradient_steps: int, num_epochs: int, num_ranks: int
) -> Owners:
    """Divides the completions of each mini-batch so that all ranks compute nearly the same number of tokens. Further
    passes mix the groups anew, so with several passes each group is divided among the ranks."""
    found: list[tuple[int | None, ...]] = []
    for part in parts(len(groups), num_gradient_steps):
        found += _balanced([groups[p] for p in part], algorithm, num_ranks, keeps_groups=num_epochs == 1)
    return tuple(found)


def _balanced(groups: Sequence[Group], algorithm: Algorithm, num_ranks: int, keeps_groups: bool) -> Owners:
    """Groups go whole to the rank with the fewest tokens, large ones first, unless it would get more than its share.
    The completions of the other groups follow, long ones first, each on the rank that then has the fewest tokens. A
    prompt counts once on each rank that reads it."""
    prompts, lengths = [len(group.prompt_tokens) for group in groups], [_lengths(group, algorithm) for group in groups]
    costs = [prompt + sum(of_group.values()) for prompt, of_group in zip(prompts, lengths, strict=True)]
    limit = UNEVEN * sum(costs) / num_ranks if keeps_groups else 0
    loads, owners = [0] * num_ranks, [dict[int, int]() for _ in groups]
    rest: list[tuple[int, int, int]] = []
    for p in sorted(range(len(groups)), key=lambda p: -costs[p]):
        rank = loads.index(min(loads))
        if loads[rank] + costs[p] <= limit:
            loads[rank] += costs[p]
            owners[p] = dict.fromkeys(lengths[p], rank)
        else:
            rest += [(-length, p, g) for g, length in lengths[p].items()]
    for length, p, g in sorted(rest):
        readers = set(owners[p].values())
        after = [load - length + prompts[p] * (rank not in readers) for rank, load in enumerate(loads)]
        owners[p][g] = rank = after.index(min(after))
        loads[rank] = after[rank]
    return tuple(tuple(map(of_group.get, range(group.size))) for of_group, group in zip(owners, groups, strict=True))


def _lengths(group: Group, algorithm: Algorithm) -> dict[int, int]:
    """Numbers of tokens of the completions in the loss."""
    in_loss = algorithm.overlong.loss_mask(group.truncated_G()).tolist()
    return {g: len(t.tokens_T) for g, t in enumerate(group.trajectories) if in_loss[g] and t.loss_mask_T.any()}
