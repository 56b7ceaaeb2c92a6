"""Numbers about groups: what a rollout was like, and how good a policy is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from dapo_lightning.types import Group


@dataclass(frozen=True)
class GroupRecord:
    """What is remembered of a group once its tokens are gone: small enough to send to every rank."""

    source: str
    rewards: tuple[float, ...]
    penalties: tuple[float, ...]
    correct: tuple[bool, ...]
    answers: tuple[str | None, ...]
    num_tokens: tuple[int, ...]
    truncated: tuple[bool, ...]
    entropy_sum: float
    probability_sum: float

    @staticmethod
    def of(group: Group, penalties: Sequence[float]) -> GroupRecord:
        """`penalties`: overlong penalty of each completion; rewards include it."""
        return GroupRecord(
            source=group.draw.prompt.source,
            rewards=tuple(grade.score + penalty for grade, penalty in zip(group.grades, penalties, strict=True)),
            penalties=tuple(penalties),
            correct=tuple(grade.correct for grade in group.grades),
            answers=tuple(grade.answer for grade in group.grades),
            num_tokens=tuple(completion.num_tokens for completion in group.completions),
            truncated=tuple(completion.truncated for completion in group.completions),
            entropy_sum=float(sum(completion.entropies.sum() for completion in group.completions)),
            probability_sum=float(sum(completion.logps.exp().sum() for completion in group.completions)),
        )


def _flat(records: Sequence[GroupRecord], name: str) -> np.ndarray:
    return np.array([value for record in records for value in getattr(record, name)])


def completion_metrics(records: Sequence[GroupRecord]) -> dict[str, float]:
    """Means over all completions (length, reward) and over all tokens (entropy, probability)."""
    num_tokens, rewards = _flat(records, "num_tokens"), _flat(records, "rewards")
    return {
        "accuracy": float(_flat(records, "correct").mean()),
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std()),
        "overlong/penalty": float(_flat(records, "penalties").mean()),
        "length/mean": float(num_tokens.mean()),
        "length/min": float(num_tokens.min()),
        "length/max": float(num_tokens.max()),
        "length/truncated": float(_flat(records, "truncated").mean()),
        "entropy": sum(record.entropy_sum for record in records) / float(num_tokens.sum()),
        "probability": sum(record.probability_sum for record in records) / float(num_tokens.sum()),
    }


def evaluation_metrics(records: Sequence[GroupRecord]) -> dict[str, float]:
    """avg@k, pass@k, maj@k over prompts with k completions each, and what the completions were like.

    maj@k is left out where the reward reads no final answers: there is nothing to vote on.
    """
    k = len(records[0].correct)
    metrics = completion_metrics(records)
    majority = {f"maj@{k}": fmean(majority_correct(record.answers, record.correct) for record in records)}
    has_answers = any(answer is not None for record in records for answer in record.answers)
    return {
        f"avg@{k}": metrics["accuracy"],
        f"pass@{k}": fmean(pass_at_k(k, sum(record.correct), k) for record in records),
        **(majority if has_answers else {}),
        "length": metrics["length/mean"],
        "truncated": metrics["length/truncated"],
        "entropy": metrics["entropy"],
        "all_correct": fmean(all(record.correct) for record in records),
        "all_wrong": fmean(not any(record.correct) for record in records),
    }


def pass_at_k(num_completions: int, num_correct: int, k: int) -> float:
    """Unbiased estimate of P(at least one of k is correct) from n completions: 1 - C(n - c, k) / C(n, k)
    (Chen et al. 2021, arXiv 2107.03374, Eq. 1).

    Raises:
        ValueError: if k exceeds the number of completions.
    """
    if k > num_completions:
        raise ValueError(f"pass@{k} needs at least {k} completions per prompt, not {num_completions}.")
    return 1 - math.comb(num_completions - num_correct, k) / math.comb(num_completions, k)


def majority_correct(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
    """1 if the most frequent answer is correct, 0 if not; between tied answers the expectation of a fair draw.
    Completions without an answer do not vote."""
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    winners = [answer for answer, count in votes.items() if count == max(votes.values())]
    right = {answer for answer, is_correct in zip(answers, correct, strict=True) if is_correct}
    return fmean(winner in right for winner in winners)
