"""What a run needs (memory, operations, minimum time) and whether it fits, calculated without weights or accelerators.

Sizes are counted where possible: weights on the meta device (`model.py`), saved activations by autograd under fake
tensors (`activations.py`). The rest is arithmetic on the assumptions at the top of `memory.py`, `cost.py` and
`accelerators.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from dapo_lightning.plan.accelerators import ACCELERATORS, Cluster, cluster_of
from dapo_lightning.plan.advice import Change, advise, assess_with
from dapo_lightning.plan.assessment import Assessment, assess
from dapo_lightning.plan.job import Config
from dapo_lightning.plan.model import known_config
from dapo_lightning.plan.report import text

__all__ = ["ACCELERATORS", "Cluster", "Plan", "cluster_of", "known_config", "plan"]


@dataclass(frozen=True)
class Plan:
    """The assessment of a configuration, and what to change if it does not fit."""

    as_it_stands: Assessment
    advice: tuple[Change, ...]  # empty if it fits already or if no change helps
    with_advice: Assessment | None

    @property
    def fits(self) -> bool:
        return self.as_it_stands.fits

    def __str__(self) -> str:
        return text(self.as_it_stands, self.advice, self.with_advice)


def plan(config: Config, model_config: PreTrainedConfig, cluster: Cluster) -> Plan:
    """Plans a run.

    Args:
        config: resolved, with the keys of conf/config.yaml. Its group `plan` may state expectations: `mean_tokens` of a
            completion (default: its limit), `prompt_tokens` (default: their limit, else 512) and the `keep_rate` of
            dynamic sampling (default: 0.5).
        model_config: configuration of the policy.
        cluster: where it would run, with one rank on each accelerator.

    Raises:
        ValueError: for models whose completions cannot share prompts.
    """
    advice = advise(config, model_config, cluster)
    advised = assess_with(advice, config, model_config, cluster) if advice else None
    return Plan(assess(config, model_config, cluster), advice, advised)
