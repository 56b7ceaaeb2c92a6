"""What a run will need, before there is anything to run it on: memory, operations, time at least, and whether it fits.

Nothing here needs weights or accelerators. What can be counted is counted: weights on the meta device
(`model.py`), saved activations by autograd under fake tensors (`activations.py`). The rest is arithmetic, whose
assumptions stand at the top of `memory.py`, `cost.py` and `accelerators.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from dapo_lightning.plan.accelerators import ACCELERATORS, Accelerator, Cluster, accelerator, cluster_of
from dapo_lightning.plan.advice import Change, advise, changed
from dapo_lightning.plan.assessment import Assessment, assess
from dapo_lightning.plan.job import Config
from dapo_lightning.plan.report import text
from dapo_lightning.plan.shapes import known_config

__all__ = [
    "ACCELERATORS", "Accelerator", "Change", "Cluster", "Plan", "accelerator", "cluster_of", "known_config", "plan",
]  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A configuration as it stands, and what to change if it does not fit.

    Args:
        as_it_stands: the assessment.
        advice: changes with which it fits; empty if it fits already, or if none were found.
        with_advice: the assessment with these changes.
    """

    as_it_stands: Assessment
    advice: tuple[Change, ...]
    with_advice: Assessment | None

    @property
    def fits(self) -> bool:
        return self.as_it_stands.fits

    def __str__(self) -> str:
        return text(self.as_it_stands, self.advice, self.with_advice)


def plan(config: Config, model_config: PreTrainedConfig, cluster: Cluster) -> Plan:
    """Plans a run.

    Args:
        config: resolved, keys as in conf/config.yaml. A group `plan` in it may say what is expected: `mean_tokens` of a
            completion (none: the longest), `prompt_tokens` (none: `max_prompt_tokens`, else 512), `keep_rate` of
            dynamic sampling (none: 0.5).
        model_config: of the policy; no weights are needed.
        cluster: what it would run on, one rank on each accelerator.

    Raises:
        ValueError: for models whose completions cannot share prompts.
    """
    as_it_stands = assess(config, model_config, cluster)
    if as_it_stands.fits:
        return Plan(as_it_stands, (), None)
    advice = advise(config, model_config, cluster)
    changed_config, changed_cluster = changed(config, cluster, advice)
    return Plan(as_it_stands, advice, assess(changed_config, model_config, changed_cluster) if advice else None)
