"""Completions that go on: each follows on a context and has a budget of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from dapo_lightning.rollout import Rollout
from dapo_lightning.types import Completion, Generation


def continued(
    rollout: Rollout,
    model: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    noise: Sequence[Tensor],
    generation: Generation,
    end_tokens: Sequence[int],
    reach: int,
) -> list[Completion]:
    """Samples one completion for each context, in order.

    Args:
        contexts: token ids of the prompt and of everything that followed on it.
        noise: for each context, [T] random numbers, one for each token that the completion may have.
        reach: no context and budget of a call exceed this number of tokens together, if none does alone.
    """
    budgets = list(map(len, noise))
    takes_budgets = getattr(rollout, "takes_budgets", False)
    found: dict[int, Completion] = {}
    for part in [list(range(len(contexts)))] if takes_budgets else _within(reach, contexts, budgets):
        longest = max(budgets[row] for row in part)
        noise_BT = [pad(noise[row], (0, 0 if takes_budgets else longest - budgets[row])) for row in part]
        noise_B1T = [noise_T[None] for noise_T in noise_BT] if takes_budgets else torch.stack(noise_BT)[:, None]
        batches = rollout(model, [contexts[row] for row in part], noise_B1T, generation, end_tokens)  # type: ignore[arg-type]
        for row, (completion,) in zip(part, (group for batch in batches for group in batch), strict=True):
            found[row] = _cut(completion, budgets[row])
    return [found[row] for row in range(len(contexts))]


def _within(reach: int, contexts: Sequence[Sequence[int]], budgets: Sequence[int]) -> list[list[int]]:
    """Parts of the rows in which the longest context and the largest budget together do not exceed `reach`. Rows that
    are alike come together, because a rollout pads them."""
    parts: list[list[int]] = []
    for row in sorted(range(len(contexts)), key=lambda row: (budgets[row], len(contexts[row]))):
        if parts and max(len(contexts[other]) for other in (*parts[-1], row)) + budgets[row] <= reach:
            parts[-1].append(row)  # whose budget is the largest of the part
        else:
            parts.append([row])
    return parts


def _cut(completion: Completion, length: int) -> Completion:
    """A completion that was given a larger budget than its own ends with its own."""
    if len(completion.tokens_T) <= length:
        return completion
    tokens_T, logps_T, entropies_T = completion.tokens_T, completion.logps_T, completion.entropies_T
    return Completion(tokens_T[:length], logps_T[:length], entropies_T[:length], truncated=True)
