"""Computes the metrics of groups: properties of a rollout and the quality of a policy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from dapo_lightning.algorithm import OverlongOption
from dapo_lightning.algorithm.overlong import NoOverlong
from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.programs import KINDS
from dapo_lightning.reward import Reward
from dapo_lightning.step import turns


def _all(records: Sequence[GroupRecord], name: str) -> list[Any]:
    return [value for record in records for value in getattr(record, name)]


def _flat(records: Sequence[GroupRecord], name: str) -> np.ndarray:
    return np.array(_all(records, name))


def completion_metrics(records: Sequence[GroupRecord], overlong: OverlongOption = NoOverlong()) -> dict[str, float]:  # noqa: B008
    """Averages lengths and rewards over completions, and entropies and probabilities over tokens. Rewards include the
    overlong penalty."""
    num_tokens, scores = _flat(records, "num_tokens"), _flat(records, "scores")
    penalties = overlong.penalty(torch.from_numpy(num_tokens)).double().numpy()
    rewards = scores + penalties
    return {
        "accuracy": float(_flat(records, "correct").mean()),
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std()),
        "overlong/penalty": float(penalties.mean()),
        "length/mean": float(num_tokens.mean()),
        "length/min": float(num_tokens.min()),
        "length/max": float(num_tokens.max()),
        "length/truncated": float(_flat(records, "truncated").mean()),
        "entropy": sum(record.entropy_sum for record in records) / float(num_tokens.sum()),
        "probability": sum(record.probability_sum for record in records) / float(num_tokens.sum()),
    }


FAILURES = ("timeout", "memory", "crash", "error")


def grading_metrics(records: Sequence[GroupRecord]) -> dict[str, float]:
    """Counts the completions that could not be graded, by reason, and programs, by outcome; averages each
    part of a weighted reward."""
    failures, kinds = Counter(_all(records, "failures")), Counter(_all(records, "kinds"))
    counts = {f"grading/{reason}": float(failures[reason]) for reason in FAILURES}
    if any(kinds):
        counts |= {f"programs/{kind}": float(kinds[kind]) for kind in ("passed", *KINDS)}
    return counts | _part_means(records)


def _part_means(records: Sequence[GroupRecord]) -> dict[str, float]:
    parts = _all(records, "parts")
    return {f"reward/{name}": fmean(part[name] for part in parts) for name in parts[0]}


def answer_metrics(records: Sequence[GroupRecord], reward: Reward) -> dict[str, float]:
    """The share of completions without a final answer, and the shares that each stage of the reward has decided. They
    and the share that could not be graded add up to 1, if the reward has stages."""
    if reward.answer_form is None:
        return {}
    stages, num_completions = Counter(_all(records, "stages")), len(_all(records, "stages"))
    pairs = zip(_all(records, "answered"), _all(records, "failures"), strict=True)
    metrics = {"reward/no_answer": fmean(not answered and failure is None for answered, failure in pairs)}
    for stage in reward.stages:
        metrics["reward/unparsed" if stage == "unparsed" else f"reward/stage_{stage}"] = stages[stage] / num_completions
    return metrics


def evaluation_metrics(records: Sequence[GroupRecord], reward: Reward) -> dict[str, float]:
    """avg@n, pass@k and maj@n over prompts with n completions each, and metrics of the completions.

    If completions have several graded turns, `turn_k/...` are the same accuracies after at most k turns, and
    `corrected` and `spoilt` the shares of completions whose first answer was wrong and whose last one is right, or the
    other way round.

    `..._ci95` is the half-width of the 95 % confidence interval of a mean over prompts. It covers the choice of prompts
    and the sampling of completions, and is left out for a single prompt. maj@n is left out if the reward reports no
    final answers to vote on.
    """
    of_prompts = evaluation_accuracies([record.correct for record in records], [record.votes for record in records])
    of_prompts |= turns.evaluation_of_turns(records, evaluation_accuracies)
    completions = completion_metrics(records)
    intervals = {f"{name}_ci95": half_width_95(values) for name, values in of_prompts.items() if len(values) > 1}
    return {
        **{name: fmean(values) for name, values in of_prompts.items()},
        **intervals,
        "length": completions["length/mean"],
        "truncated": completions["length/truncated"],
        "entropy": completions["entropy"],
        "reward/mean": completions["reward/mean"],
        **_part_means(records),
        **answer_metrics(records, reward),
        "all_correct": fmean(all(record.correct) for record in records),
        "all_wrong": fmean(not any(record.correct) for record in records),
        "not_graded": fmean(failure is not None for failure in _all(records, "failures")),
        **({"turns": turns.mean_number(records)} if records[0].turn_tokens else {}),
    }


def evaluation_accuracies(
    correct: Sequence[Sequence[bool]], votes: Sequence[Sequence[str | None]]
) -> dict[str, list[float]]:
    """The accuracies of each prompt, given which of its n completions are correct and what they vote for."""
    n = len(correct[0])
    found = {f"avg@{n}": [fmean(one) for one in correct]}
    for k in [k for k in (2**i for i in range(1, n.bit_length())) if k < n] + [n]:
        found[f"pass@{k}"] = [pass_at_k(n, sum(one), k) for one in correct]
    if any(vote is not None for one in votes for vote in one):
        found[f"maj@{n}"] = [majority_correct(*pair) for pair in zip(votes, correct, strict=True)]
    return found


def half_width_95(values: Sequence[float]) -> float:
    """Half the width of the normal 95 % confidence interval of a mean: 1.96 s / sqrt(n), where s has ddof 1."""
    return 1.96 * stdev(values) / math.sqrt(len(values))


def pass_at_k(num_completions: int, num_correct: int, k: int) -> float:
    """Unbiased estimate of P(at least one of k is correct) from n completions: 1 - C(n - c, k) / C(n, k)
    (Chen et al. 2021, arXiv 2107.03374, Eq. 1).

    Raises:
        ValueError: if k exceeds the number of completions.
    """
    if k > num_completions:
        raise ValueError(f"pass@{k} needs at least {k} completions per prompt, not {num_completions}.")
    return 1 - math.comb(num_completions - num_correct, k) / math.comb(num_completions, k)


def majority_correct(votes: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Returns 1 if the answer with the most votes is correct, else 0; the mean over the answers if several are tied.
    Completions without an answer (None) do not vote."""
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    winners = [vote for vote, count in counts.items() if count == max(counts.values())]
    right = {vote for vote, is_correct in zip(votes, correct, strict=True) if is_correct}
    return fmean(winner in right for winner in winners)
