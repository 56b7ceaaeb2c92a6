"""Completions of the untrained policy: their numbers, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from dapo_lightning.algorithm import OverlongOption, SamplingOption
from dapo_lightning.doctor.finding import Finding, found, quoted
from dapo_lightning.reward import Reward
from dapo_lightning.types import Group

_MOST_TRUNCATED, _MOST_WITHOUT, _MOST_FAILED, _FEWEST_USEFUL = 0.5, 0.5, 0.02, 0.05
_MOST_PENALTY = 0.1  # of the right completions on average


@dataclass(frozen=True)
class Sample:
    """Shares of completions or groups, and lengths in tokens.

    Args:
        pass_rates: number of prompts by the number of right completions, from 0 to G.
        keep_rate: share of groups that the sampling option keeps.
        no_answer: None if the reward reads no final answers.
        percentiles: lengths that 50, 90 and 99 % of the completions do not exceed.
        punished: share of right completions with an overlong penalty.
        penalty: mean overlong penalty of the right completions.
    """

    num_prompts: int
    num_completions: int
    pass_rates: tuple[int, ...]
    keep_rate: float
    useful: float
    accuracy: float
    truncated: float
    no_answer: float | None
    not_graded: float
    mean_length: float
    percentiles: tuple[float, float, float]
    punished: float
    penalty: float
    mean_prompt: float


def sample_of(groups: Sequence[Group], sampling: SamplingOption, overlong: OverlongOption, reward: Reward) -> Sample:
    """Summarizes groups of equally many completions."""
    size = groups[0].size
    grades = [grade for group in groups for grade in group.grades]
    lengths = np.array([length for group in groups for length in group.lengths_G().tolist()])
    penalties = [
        penalty
        for group in groups
        for penalty, grade in zip(overlong.penalty(group.lengths_G()).tolist(), group.grades, strict=True)
        if grade.correct
    ]
    counts = Counter(group.num_correct for group in groups)
    missing = [grade.answer is None and grade.failure is None for grade in grades]
    return Sample(
        num_prompts=len(groups),
        num_completions=size,
        pass_rates=tuple(counts[right] for right in range(size + 1)),
        keep_rate=fmean(sampling.verdict(group).keep for group in groups),
        useful=fmean(0 < group.num_correct < size for group in groups),
        accuracy=fmean(grade.correct for grade in grades),
        truncated=fmean(flag for group in groups for flag in group.truncated_G().tolist()),
        no_answer=fmean(missing) if reward.answer_form is not None else None,
        not_graded=fmean(grade.failure is not None for grade in grades),
        mean_length=float(lengths.mean()),
        percentiles=tuple(float(value) for value in np.percentile(lengths, [50, 90, 99])),  # type: ignore[arg-type]
        punished=fmean(penalty < 0 for penalty in penalties) if penalties else 0.0,
        penalty=fmean(penalties) if penalties else 0.0,
        mean_prompt=fmean(len(group.prompt_tokens) for group in groups),
    )


def check_sample(sample: Sample, groups: Sequence[Group], reward: Reward) -> list[Finding]:
    """Finds what would keep a run from learning."""
    findings = []
    if sample.truncated > _MOST_TRUNCATED:
        remedy = "Raise it, or ask for shorter answers."
        findings += found(
            "truncated", f"{sample.truncated:.0%} of the completions are cut off at max_new_tokens. {remedy}"
        )
    if (sample.no_answer or 0.0) > _MOST_WITHOUT:
        findings += found(
            "no_answer",
            f"The reward finds no answer in {sample.no_answer:.0%} of the completions. It looks for "
            f"{reward.answer_form}: ask the policy for this form.",
            (f"{group.prompt.source}: …{quoted(group.texts[0][-100:], 100)}" for group in groups),
        )
    failed = [
        f"{group.prompt.source}: {grade.failure} {grade.detail[:120]}, on {quoted(text)}"
        for group in groups
        for grade, text in zip(group.grades, group.texts, strict=True)
        if grade.failure is not None
    ]
    if any(grade.failure == "error" for group in groups for grade in group.grades) or sample.not_graded > _MOST_FAILED:
        findings += found("not_graded", f"{sample.not_graded:.1%} of the completions could not be graded.", failed)
    if sample.useful < _FEWEST_USEFUL:
        all_right = fmean(group.num_correct == group.size for group in groups)
        findings += found(
            "nothing_useful",
            f"{sample.useful:.0%} of the prompts have right and wrong completions ({all_right:.0%} are all right, "
            f"{1 - all_right - sample.useful:.0%} all wrong). Use prompts of another difficulty, or a warm start.",
        )
    if -sample.penalty > _MOST_PENALTY:
        findings += found(
            "punished",
            f"The overlong penalty would hit {sample.punished:.0%} of the right completions, and take "
            f"{-sample.penalty:.2f} from right ones on average. Raise max_new_tokens, or lower overlong.cache_tokens.",
        )
    return findings
