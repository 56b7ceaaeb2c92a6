"""Kept groups and their advantages -> mini-batches of rows that are ready to train on (line 10 of Algorithm 1)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.algorithm.tokens import CountedTokens
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.fill import Batch
from dapo_lightning.forward.logprobs import right_pad
from dapo_lightning.step.shares import numbers_only, parts
from dapo_lightning.types import Group, Trajectory


@dataclass(frozen=True)
class Row:
    """One trajectory in the loss.

    Args:
        advantages: [1], one for all tokens, or [T].
        weights: [1] or [T]; they include the denominator, which is counted over the whole mini-batch and all ranks.
        reference_logps_T: log-probs under the reference copy; None until they are known.
        place: place in the mini-batch, counted over all ranks.
        origin: number of the group, and place of the trajectory in it.
        marks: what options have found out about each token from the whole mini-batch, [T] by name.
    """

    prompt_tokens: tuple[int, ...]
    trajectory: Trajectory
    advantages: Tensor = field(default_factory=lambda: torch.zeros(1))
    weights: Tensor = field(default_factory=lambda: torch.zeros(1))
    reference_logps_T: Tensor | None = None
    place: int = 0
    origin: tuple[int, int] = (0, 0)
    marks: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Number of tokens of the prompt and the trajectory, in the loss mask or not."""
        return len(self.prompt_tokens) + len(self.trajectory.tokens_T)


@dataclass(frozen=True)
class MiniBatch:
    """The rows of this rank in one gradient step.

    `num_tokens` counts the tokens of its loss mask on all ranks. `problem` says why the mini-batch must not be trained
    on; None if it may be.
    """

    rows: tuple[Row, ...] = ()
    num_tokens: int = 0
    problem: str | None = None


def advantages(rewards_PG: Tensor, groups: Sequence[Group], algorithm: Algorithm) -> Tensor:
    """Returns [P, G, 1] or [P, G, T] advantages (line 9 of Algorithm 1). Without groups, the option is not called.

    Raises:
        ValueError: if the option returns another shape.
    """
    if not groups:
        return torch.zeros(0, 2, 1)
    with numbers_only(algorithm.advantage):
        advantages_PGX = algorithm.advantage(rewards_PG, groups).cpu()
    longest = max(len(trajectory.tokens_T) for group in groups for trajectory in group.trajectories)
    if advantages_PGX.shape[:-1] != rewards_PG.shape or advantages_PGX.shape[-1] not in (1, longest):
        raise ValueError(
            f"{type(algorithm.advantage).__name__} returned advantages of shape {list(advantages_PGX.shape)}, but "
            f"there are {len(groups)} groups of {groups[0].size} completions of at most {longest} tokens: return "
            f"{[*rewards_PG.shape, 1]}, or {[*rewards_PG.shape, longest]} for single tokens."
        )
    return advantages_PGX


def split(
    batch: Batch,
    advantages_PGX: Tensor,
    algorithm: Algorithm,
    num_gradient_steps: int,
    ranks: Ranks = Ranks(),  # noqa: B008
    orders: Sequence[Sequence[int]] | None = None,
) -> list[MiniBatch]:
    """Divides the groups into mini-batches, in the order of their numbers, and gives every row its weights.

    Each mini-batch holds whole groups, but a rank only has the rows that `batch.owners` gives it. With fewer groups
    than gradient steps, some mini-batches are empty. If a score of a prompt that the step used up is not finite as a
    float32, the result is a single mini-batch without rows. (The keep rule alone would hide a NaN, because it counts as
    not correct.)

    Args:
        advantages_PGX: [P, G, 1] or [P, G, T].
        orders: for each pass over the groups, the order in which its mini-batches take them; None: one pass in the
            order of their numbers.
    """
    scores = [(record.source, record.scores) for record in batch.used]
    scores += [(group.prompt.source, tuple(grade.score for grade in group.grades)) for group in batch.groups]
    for source, scores_G in scores:
        if not torch.tensor(scores_G, dtype=torch.float32).isfinite().all():
            return [MiniBatch(problem=f"the reward of {source} is not finite as a float32 ({list(scores_G)})")]
    ranges, first = parts(len(batch.groups), num_gradient_steps), range(len(batch.groups))
    chosen = [[order[place] for place in places] for order in orders or [first] for places in ranges]
    return [_mini_batch(batch, places, advantages_PGX, algorithm, ranks) for places in chosen]


def shuffles(num_epochs: int, num_groups: int, seed: int, step: int) -> list[Sequence[int]]:
    """Returns the order of the groups in each pass over the rollout of a DAPO step. The first pass keeps the order of
    the prompts, which are shuffled already; each further one has a random order of its own."""
    key = zlib.crc32(b"epochs")
    further = (np.random.default_rng([seed, key, step, epoch]) for epoch in range(1, num_epochs))
    return [range(num_groups), *(generator.permutation(num_groups).tolist() for generator in further)]


def _mini_batch(
    batch: Batch, chosen: Sequence[int], advantages_PGX: Tensor, algorithm: Algorithm, ranks: Ranks
) -> MiniBatch:
    groups = batch.groups
    places = [(p, g) for p in chosen for g in range(groups[p].size)]
    if not places:
        return MiniBatch()
    trajectories = [groups[p].trajectories[g] for p, g in places]
    in_loss_B = algorithm.overlong.loss_mask(torch.tensor([trajectory.truncated for trajectory in trajectories]))
    mask_BT = right_pad([t.loss_mask_T for t in trajectories], in_loss_B.device) & in_loss_B[:, None]
    with numbers_only(algorithm.loss):
        tokens = CountedTokens(mask_BT, torch.tensor([p for p, _ in places]), trajectories)
        weights = algorithm.loss.weights(tokens).cpu()
    rows = tuple(
        Row(
            groups[p].prompt_tokens,
            trajectory,
            _first(advantages_PGX[p, g], trajectory),
            _first(weight, trajectory),
            trajectory.reference_logps_T,
            place=place,
            origin=(groups[p].number, g),
        )
        for place, ((p, g), trajectory, weight, mask_T) in enumerate(
            zip(places, trajectories, weights, mask_BT, strict=True)
        )
        if batch.is_trained_by(ranks.rank, p, g) and mask_T.any()  # rows outside the loss need not be computed
    )
    return MiniBatch(rows, int(mask_BT.sum()))


def _first(values: Tensor, trajectory: Trajectory) -> Tensor:
    """Removes the padding from the values of a trajectory: [1] -> [1], [longest] -> [T]."""
    return values[: len(trajectory.tokens_T)].float().clone()  # a view would keep the values of all ranks in memory


def placeholder(end_token: int) -> Row:
    """Returns a row that adds nothing to the loss. A rank without rows computes it while other ranks compute theirs,
    because all ranks must take part in collectives."""
    zeros_T = torch.zeros(1)
    trajectory = Trajectory(
        tokens_T=torch.tensor([end_token]),
        loss_mask_T=torch.tensor([False]),
        logps_T=zeros_T,
        entropies_T=zeros_T,
        truncated=False,
        policy_step=0,
        old_logps_T=zeros_T,
    )
    return Row((end_token,), trajectory, reference_logps_T=zeros_T)
