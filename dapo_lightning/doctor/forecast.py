"""What the sample says about the DAPO steps to come: rounds and tokens of dynamic sampling, and the time of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from dapo_lightning.algorithm import SamplingOption
from dapo_lightning.doctor.finding import Finding, found
from dapo_lightning.doctor.sample import Sample
from dapo_lightning.plan import cluster_of
from dapo_lightning.plan.assessment import assess
from dapo_lightning.plan.report import duration

_TRIALS = 400
_SHORT = 0.5  # share of steps whose batch is not filled


@dataclass(frozen=True)
class Forecast:
    """Expectations for the first steps.

    Args:
        rounds, groups, tokens: means per step; tokens are generated ones.
        short: share of steps whose batch stays short of groups.
        planned: the least time of a step on the planned accelerators; None if the plan does not know the model.
        sampled_per_second: tokens that this machine has generated per second in the sample.
    """

    rounds: float
    groups: float
    tokens: float
    short: float
    planned: str | None
    sampled_per_second: float


def forecast(
    config: Mapping[str, Any], sampling: SamplingOption, sample: Sample, model: PreTrainedConfig | None, seconds: float
) -> Forecast:
    """Simulates the rounds of steps in which each group is kept with the probability that the sample gives.

    Args:
        model: the configuration of the policy, for the plan.
        seconds: how long the sample took.
    """
    generator, needed = np.random.default_rng(0), config["num_prompts_per_step"]
    steps = [_step(sampling, needed, sample.keep_rate, generator) for _ in range(_TRIALS)]
    groups = fmean(num_groups for _, num_groups, _ in steps)
    num_tokens = sample.num_prompts * sample.num_completions * sample.mean_length
    return Forecast(
        rounds=fmean(num_rounds for num_rounds, _, _ in steps),
        groups=groups,
        tokens=groups * sample.num_completions * sample.mean_length,
        short=fmean(missing > 0 for _, _, missing in steps),
        planned=_planned(config, sample, model),
        sampled_per_second=num_tokens / max(seconds, 1e-9),
    )


def check_forecast(forecast: Forecast, sample: Sample) -> list[Finding]:
    """Finds that most steps could not fill their batch."""
    if forecast.short <= _SHORT:
        return []
    return found(
        "short_batches",
        f"{sample.keep_rate:.0%} of the groups are kept, so {forecast.short:.0%} of the steps would stay short of "
        "groups after sampling.max_rounds. Raise it, or use prompts of another difficulty.",
    )


def _step(sampling: SamplingOption, needed: int, keep_rate: float, generator: Any) -> tuple[int, int, int]:
    """The rounds of a step, the groups that it generates, and those that it is short of."""
    missing, num_rounds, num_groups = needed, 0, 0
    while (number := sampling.next_round(missing, keep_rate, num_rounds)) > 0:
        num_rounds, num_groups = num_rounds + 1, num_groups + number
        kept = int(generator.binomial(number, keep_rate))
        missing = max(0, missing - kept)
    return num_rounds, num_groups, missing


def _planned(config: Mapping[str, Any], sample: Sample, model: PreTrainedConfig | None) -> str | None:
    measured = {
        "mean_tokens": sample.mean_length,
        "prompt_tokens": max(1, round(sample.mean_prompt)),
        "keep_rate": max(sample.keep_rate, 0.01),
    }
    expected = {**config, "plan": {**config["plan"], **measured}}
    if model is None:
        return None
    try:
        cluster = cluster_of(expected)
        seconds = duration(assess(expected, model, cluster).seconds)
    except ValueError:
        return None
    return f"{seconds} on {cluster.num_accelerators} x {cluster.accelerator.name}"
