"""Small worlds for the tests: a policy that fits in a cache line, groups written by hand."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.algorithm.advantage import GroupNormalized
from dapo_lightning.algorithm.clip import Clip
from dapo_lightning.algorithm.correction import NoCorrection
from dapo_lightning.algorithm.kl import NoKL
from dapo_lightning.algorithm.loss import TokenLevel
from dapo_lightning.algorithm.overlong import NoOverlong
from dapo_lightning.algorithm.ratio import TokenRatio
from dapo_lightning.algorithm.sampling import Static
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.ahead import KeepRate
from dapo_lightning.draws.fill import Batch
from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.policy import Policy
from dapo_lightning.policy.tiny import TinyPolicy
from dapo_lightning.step.experience import MiniBatch, advantages, split
from dapo_lightning.step.shares import owners_of
from dapo_lightning.types import Completion, Grade, Group, Prompt, Trajectory

os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Shells ignore Ctrl-C in background commands, and nohup ignores SIGHUP; the runs of these tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def policy() -> Policy:
    """Random weights, wide enough apart that the policy is far from uniform."""
    policy = tiny(seed=0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(3.0)
    return policy


def tiny(seed: int) -> Policy:
    source = TinyPolicy(
        hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, max_positions=512, initializer_range=0.05,
        seed=seed, warm_start=None,
    )  # fmt: skip
    return source.load(source.codec(), dataset=None, cache=None)  # type: ignore[arg-type]


def algorithm(**options: object) -> Algorithm:
    """Naive GRPO, but for the options given."""
    base = {
        "ratio": TokenRatio(),
        "clip": Clip(0.8, 1.2),
        "loss": TokenLevel(),
        "overlong": NoOverlong(),
        "sampling": Static(),
        "advantage": GroupNormalized(),
        "kl": NoKL(),
        "correction": NoCorrection(),
    }
    return Algorithm(**base | options)  # type: ignore[arg-type]


def batch_of(groups: Sequence[Group]) -> Batch:
    """A batch that was sampled without loss."""
    records = tuple(GroupRecord.of(group) for group in groups)
    return Batch(tuple(groups), 0, (), {"useful": len(groups)}, records, 10**9, 1, KeepRate(), None)


def mini_batches(
    groups: Sequence[Group],
    options: Algorithm,
    num_gradient_steps: int,
    ranks: Ranks = Ranks(),  # noqa: B008
) -> list[MiniBatch]:
    """What the DAPO step makes of kept groups: shaped rewards, advantages, weights."""
    batch = replace(batch_of(groups), owners=owners_of(groups, options, num_gradient_steps, 1, ranks.size))
    rewards_PG = batch.scores_PG() + options.overlong.penalty(batch.lengths_PG())
    return split(batch, advantages(rewards_PG, batch.groups, options), options, num_gradient_steps, ranks)


def mini_batch(groups: Sequence[Group], options: Algorithm, ranks: Ranks = Ranks()) -> MiniBatch:  # noqa: B008
    return mini_batches(groups, options, 1, ranks)[0]


def make_group(
    number: int, scores: Sequence[float], lengths: Sequence[int] | None = None, truncated: Sequence[bool] | None = None
) -> Group:
    """A group of random tokens; a completion is correct iff its score is positive."""
    generator = torch.Generator().manual_seed(number)
    lengths = lengths or [3 + (number + i) % 4 for i in range(len(scores))]
    truncated = truncated or [False] * len(scores)
    completions = [
        Completion(
            tokens_T=torch.randint(3, 90, (length,), generator=generator),
            logps_T=-3 - torch.rand(length, generator=generator),
            entropies_T=torch.rand(length, generator=generator),
            truncated=cut,
        )
        for length, cut in zip(lengths, truncated, strict=True)
    ]
    return Group(
        number=number,
        prompt=Prompt(f"{number}+1=", str(number + 1), f"test:{number}"),
        prompt_tokens=tuple(range(5, 7 + number % 3)),
        trajectories=tuple(Trajectory.of(completion, policy_step=0) for completion in completions),
        texts=tuple("x" for _ in scores),
        grades=tuple(Grade(score=score, correct=score > 0) for score in scores),
    )
