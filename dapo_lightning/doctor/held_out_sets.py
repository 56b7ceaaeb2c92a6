"""The sets of `evaluation.sets`: whether their references grade themselves right, and what their rewards accept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace

from dapo_lightning.doctor import probes
from dapo_lightning.doctor.patient import HeldOutSet, Patient, prompts_of
from dapo_lightning.doctor.references import References, check_references
from dapo_lightning.draws.datamodule import evaluated
from dapo_lightning.reward import Reward
from dapo_lightning.types import Prompt


def check_sets(patient: Patient, prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, References]:
    """Checks each set with data or a reward of its own as those of the run are checked; the findings name it.

    Args:
        prompts: those that are short enough, by split. The reward of the run has been started.
    """
    return {
        name: _check(f"evaluation.sets.{name}", one, patient.reward, prompts_of(name, prompts))
        for name, one in patient.sets.items()
        if one.dataset is not patient.dataset or one.reward is not patient.reward
    }


def check_numbers(patient: Patient, prompts: Mapping[str, Sequence[Prompt]]) -> None:
    """Raises a ValueError, as the run would, if more held-out prompts are to be evaluated than there are."""
    evaluated(prompts["held-out"], patient.settings["evaluation"]["num_prompts"], "evaluation")
    for name, one in patient.sets.items():
        evaluated(prompts_of(name, prompts), one.num_prompts, f"evaluation.sets.{name}")


def _check(path: str, one: HeldOutSet, started: Reward, rows: Sequence[Prompt]) -> References:
    with ExitStack() as stack:
        if one.reward is not started:
            stack.enter_context(closing(one.reward)).start()
        references = check_references(one.reward, rows)
        findings = list(references.findings)
        if references.usable and references.is_graded:
            findings += probes.accepts_anything(one.reward, references.usable, references.form)
    named = (replace(finding, sentence=f"{path}: {finding.sentence}") for finding in findings)
    return replace(references, findings=tuple(named))
