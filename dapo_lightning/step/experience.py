"""Kept groups -> mini-batches of rows that are ready to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.types import Completion, Group


@dataclass(frozen=True)
class Row:
    """One completion in the loss.

    `weight` multiplies each of its tokens; it already holds the denominator, which is counted over the whole
    mini-batch and all ranks.  `old_logps` [T] and `reference_logps` [T] are None until they are known: the former
    are the sampled ones where those are exact, the latter are needed for a KL penalty only.
    """

    prompt_tokens: tuple[int, ...]
    completion: Completion
    advantage: float
    weight: float
    old_logps: Tensor | None = None
    reference_logps: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_tokens) + self.completion.num_tokens


@dataclass(frozen=True)
class MiniBatch:
    """This rank's rows of one gradient step, and the tokens that count in it over all ranks."""

    rows: list[Row]
    num_tokens: int


def prepare(
    groups: Sequence[Group],
    algorithm: Algorithm,
    num_gradient_steps: int,
    ranks: Ranks = Ranks(),  # noqa: B008
) -> list[MiniBatch]:
    """Overlong shaping, advantages, and the weight of every row.

    Groups stay whole: a mini-batch is `1 / num_gradient_steps` of the groups, in draw order; within it they are dealt
    to the ranks. With fewer groups than gradient steps, some mini-batches are empty.
    """
    if not groups:
        return [MiniBatch([], 0) for _ in range(num_gradient_steps)]
    rewards_PG = torch.stack([shaped_rewards(group, algorithm) for group in groups])
    advantages_PG = algorithm.advantage(rewards_PG)
    bounds = [round(i * len(groups) / num_gradient_steps) for i in range(num_gradient_steps + 1)]
    return [_mini_batch(groups[low:high], advantages_PG[low:high], algorithm, ranks) for low, high in pairwise(bounds)]


def shaped_rewards(group: Group, algorithm: Algorithm) -> Tensor:
    """Scores plus overlong penalty, [G]."""
    return group.scores_G() + algorithm.overlong.penalty(group.lengths_G())


def _mini_batch(groups: Sequence[Group], advantages_PG: Tensor, algorithm: Algorithm, ranks: Ranks) -> MiniBatch:
    if not groups:
        return MiniBatch([], 0)
    num_tokens_PG = torch.stack(
        [group.lengths_G() * algorithm.overlong.counts(group.truncated_G()) for group in groups]
    )
    group_PG = torch.arange(len(groups))[:, None].expand_as(num_tokens_PG)
    weights_PG = algorithm.loss.weights(num_tokens_PG.flatten(), group_PG.flatten()).view_as(num_tokens_PG)
    rows = [
        Row(groups[p].prompt_tokens, completion, float(advantages_PG[p, g]), float(weights_PG[p, g]))
        for p in ranks.mine(range(len(groups)))
        for g, completion in enumerate(groups[p].completions)
        if num_tokens_PG[p, g] > 0  # a masked row adds nothing to the loss: it need not be computed
    ]
    return MiniBatch(rows, int(num_tokens_PG.sum()))


def placeholder(end_token: int) -> Row:
    """A row of weight 0, for a rank that has none left while others still compute: collectives must match."""
    completion = Completion(torch.tensor([end_token]), torch.zeros(1), torch.zeros(1), truncated=False)
    return Row((end_token,), completion, advantage=0.0, weight=0.0, old_logps=torch.zeros(1))
