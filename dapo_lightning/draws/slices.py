"""One slice of the completions of unfinished groups (see `dapo_lightning.draws.partial`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dapo_lightning.rollout import Rollout
from dapo_lightning.rollout.continued import continued
from dapo_lightning.types import Completion, Generation, NumberedPrompt, Slice, Trajectory


def sliced(
    rollout: Rollout,
    model: PreTrainedModel,
    tokens: Sequence[Sequence[int]],
    noise_PGT: Tensor,
    generation: Generation,
    end_tokens: Sequence[int],
    prompts: Sequence[NumberedPrompt],
    part: Slice,
    policy_step: int,
) -> list[tuple[Trajectory, ...]]:
    """The trajectories of P prompts after a slice, in which all unfinished ones go on together.

    Args:
        tokens: the P prompts, tokenised.
        noise_PGT: one number in [0, 1) for each token of a whole completion. A token thus has the same number however
            its completion is divided into slices.
    """
    num_completions, budget = noise_PGT.shape[1:]
    groups = [
        list(part.begun[n.number].trajectories if n.number in part.begun else [_empty(policy_step)] * num_completions)
        for n in prompts
    ]
    places = [(p, g) for p, group in enumerate(groups) for g, t in enumerate(group) if not has_ended(t, end_tokens)]
    contexts, noise = [], []
    for p, g in places:
        written_T = groups[p][g].tokens_T
        contexts.append([*tokens[p], *written_T.tolist()])
        noise.append(noise_PGT[p, g, len(written_T) : len(written_T) + part.num_tokens])
    reach = max(map(len, tokens)) + budget
    completions = continued(rollout, model, contexts, noise, generation, end_tokens, reach)
    for (p, g), completion in zip(places, completions, strict=True):
        groups[p][g] = extended(groups[p][g], completion, policy_step, budget)
    return list(map(tuple, groups))


def has_ended(trajectory: Trajectory, end_tokens: Sequence[int]) -> bool:
    """Whether the trajectory has its end token, or has used up its budget."""
    return trajectory.truncated or (len(trajectory.tokens_T) > 0 and int(trajectory.tokens_T[-1]) in end_tokens)


def extended(trajectory: Trajectory, completion: Completion, policy_step: int, budget: int) -> Trajectory:
    """The trajectory with further tokens. It is truncated if they use up the budget without an end token."""
    num_earlier, num_before = trajectory.num_earlier, len(trajectory.tokens_T)
    earlier = trajectory.earlier
    if trajectory.policy_step != policy_step:
        earlier += ((trajectory.policy_step, num_before - num_earlier),)
    return Trajectory(
        torch.cat([trajectory.tokens_T, completion.tokens_T]),
        torch.cat([trajectory.loss_mask_T, torch.ones_like(completion.tokens_T, dtype=torch.bool)]),
        torch.cat([trajectory.logps_T, completion.logps_T]),
        torch.cat([trajectory.entropies_T, completion.entropies_T]),
        completion.truncated and num_before + len(completion.tokens_T) == budget,
        policy_step,
        trajectory.old_logps_T,
        earlier=earlier,
    )


def _empty(policy_step: int) -> Trajectory:
    none_T = torch.zeros(0)
    return Trajectory(none_T.long(), none_T.bool(), none_T, none_T, truncated=False, policy_step=policy_step)
