"""Draws whose groups are scripted, filled without a policy."""

import random
from functools import partial

from conftest import make_group

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.fill import Batch, PromptDraws, fill
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.types import Prompt

PROMPTS = [Prompt(str(i), str(i), f"test:{i}") for i in range(10)]


def draws(num_groups: int = 4) -> PromptDraws:
    return PromptDraws(PromptStream(PROMPTS, seed=0), num_groups)


def step(draws: PromptDraws, generate, sampling, ranks: Ranks = Ranks()) -> Batch:  # noqa: B008
    """What a DAPO step does with its draws: it fills a batch, trains, and only then moves on."""
    batch = fill(draws, generate, sampling, ranks)
    draws.state = batch.next_state
    return batch


def in_batches(groups, size: int = 1000):
    """As a rollout yields them that generates `size` prompts together."""
    for start in range(0, len(groups), size):
        yield [partial(lambda group: group, group) for group in groups[start : start + size]]


def always(scores):
    """Every group has these scores."""
    return lambda share: in_batches([make_group(numbered.number, scores) for numbered in share])


def scripted(share):
    """Even prompts are useful; of the odd ones, those divisible by 3 are all correct, the others all wrong."""

    def scores(number):
        return [1, -1] if number % 2 == 0 else [1, 1] if number % 3 == 0 else [-1, -1]

    return in_batches([make_group(numbered.number, scores(int(numbered.prompt.text))) for numbered in share])


def learning(step: int, numbered):
    """The group of a prompt depends on the weights that it is sampled with."""
    scores = random.Random(f"{step} {numbered.number}").choice([[1, 1], [-1, -1], [1, -1], [-1, 1]])
    return make_group(numbered.number, scores)


def history(sampling, size: int = 1000, ranks: Ranks = Ranks(), num_steps: int = 15):  # noqa: B008
    """For each step, the groups trained on, the number of prompts used up, and the batch."""
    prompts = draws()
    for number in range(num_steps):
        batch = step(
            prompts,
            lambda share, number=number: in_batches([learning(number, numbered) for numbered in share], size),
            sampling,
            ranks,
        )
        yield [(group.number, group.scores_G().tolist()) for group in batch.groups], batch.num_drawn, batch
