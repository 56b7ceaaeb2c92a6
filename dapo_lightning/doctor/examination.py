"""The examination: data first, then the reward, then a sample of completions of the untrained policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from tqdm import tqdm

from dapo_lightning.doctor import probes, prompts
from dapo_lightning.doctor.finding import Finding
from dapo_lightning.doctor.forecast import Forecast, check_forecast, forecast
from dapo_lightning.doctor.held_out_sets import check_numbers, check_sets
from dapo_lightning.doctor.near_misses import NearMiss, near_misses
from dapo_lightning.doctor.patient import Patient
from dapo_lightning.doctor.references import References, check_references
from dapo_lightning.doctor.sample import Sample, check_sample, sample_of
from dapo_lightning.draws.length import LengthLimit
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.draws.worker import RolloutWorker
from dapo_lightning.types import Group, Prompt
from dapo_lightning.utils.clock import Clock


@dataclass(frozen=True)
class Diagnosis:
    """The result. `sample` and `forecast` are missing if no prompt can be used."""

    num_prompts: Mapping[str, int]  # by split
    lengths: Mapping[str, float]  # tokens of the prompts of all splits: mean and longest
    findings: tuple[Finding, ...]
    references: References
    references_of_sets: Mapping[str, References]  # of the sets with data or a reward of their own
    sample: Sample | None
    forecast: Forecast | None
    near_misses: tuple[NearMiss, ...]


def examine(patient: Patient) -> Diagnosis:
    """Examines what a run would train on.

    Raises:
        ValueError: as the run would, if it could not even begin.
    """
    splits = patient.splits()
    lengths = {split: [len(patient.codec.encode(prompt)) for prompt in rows] for split, rows in splits.items()}
    every = [length for of_split in lengths.values() for length in of_split]
    most, limited_by = _longest(patient.limit)
    held_out = {split: rows for split, rows in splits.items() if split != "train"}
    findings = [
        *prompts.too_long(lengths, splits, most, limited_by),
        *(one for split in splits for one in prompts.duplicates(split, splits[split], split in patient.drawn)),
        *prompts.in_both(splits["train"], held_out),
        *prompts.same_answer(splits["train"]),
    ]
    short = {
        split: [prompt for prompt, length in zip(rows, lengths[split], strict=True) if most is None or length <= most]
        for split, rows in splits.items()
    }
    check_numbers(patient, short)
    clock, groups = Clock(), list[Group]()
    with closing(patient.reward) as reward:
        reward.start()
        references = check_references(reward, [*short["train"], *short["held-out"]])
        findings += references.findings
        train = references.usable_of(short["train"])
        if train and references.is_graded:
            findings += probes.accepts_anything(reward, train, references.form)
            reach = max(length for length in every if most is None or length <= most) + patient.limit.after_prompt
            groups = _sampled(patient, train, reach, clock)
            findings += probes.unstable(reward, groups) if patient.environment.num_turns == 1 else []
        of_sets = check_sets(patient, short)
        findings += [finding for one in of_sets.values() for finding in one.findings]
    sample, expected = None, None
    if groups:
        sample = sample_of(groups, patient.algorithm.sampling, patient.algorithm.overlong, reward)
        seconds = clock.seconds["generate"]
        expected = forecast(patient.settings, patient.algorithm.sampling, sample, patient.model, seconds)
        findings += [*check_sample(sample, groups, reward), *check_forecast(expected, sample)]
    return Diagnosis(
        num_prompts={split: len(rows) for split, rows in splits.items()},
        lengths={"mean": sum(every) / len(every), "longest": max(every)},
        findings=tuple(findings),
        references=references,
        references_of_sets=of_sets,
        sample=sample,
        forecast=expected,
        near_misses=tuple(near_misses(groups)),
    )


def _longest(limit: LengthLimit) -> tuple[int | None, str]:
    """The most tokens that a prompt may have, and what limits them."""
    if limit.max_prompt_tokens is not None:
        return limit.max_prompt_tokens, f"max_prompt_tokens={limit.max_prompt_tokens}"
    if limit.max_positions is not None:
        most = limit.max_positions - limit.after_prompt
        return most, f"{most} tokens (the positions of the policy less max_new_tokens)"
    return None, ""


def _sampled(patient: Patient, train: Sequence[Prompt], reach: int, clock: Clock) -> list[Group]:
    """The completions of the first prompts of a run, as its first step would sample them."""
    settings, policy = patient.settings, patient.load(reach)
    has_gpu = torch.cuda.is_available() and settings["trainer"]["accelerator"] != "cpu"
    device = torch.device("cuda" if has_gpu else "cpu")
    policy.model.to(device)
    worker = RolloutWorker(policy, patient.rollout, patient.reward, settings["seed"], clock, patient.environment)
    numbered = PromptStream(train, settings["seed"]).take(0, min(settings["doctor"]["num_prompts"], len(train)))
    size, groups = settings["num_completions_per_prompt"], list[Group]()
    in_bf16 = settings["trainer"]["precision"] == "bf16-mixed"
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=in_bf16),
        tqdm(total=len(numbered) * size, desc="completions", unit="completion") as bar,
        worker.ready(),
    ):
        for batch in worker.generate(numbered, size, patient.generation, "train"):
            groups += [pending() for pending in batch]
            bar.update(len(batch) * size)
    return groups
