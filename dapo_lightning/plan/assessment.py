"""One configuration on one cluster: what it needs, its minimum time, and whether it can run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from transformers import PreTrainedConfig

from dapo_lightning.plan import engine
from dapo_lightning.plan.accelerators import Cluster
from dapo_lightning.plan.activations import saved_bytes
from dapo_lightning.plan.cost import Work, work
from dapo_lightning.plan.job import Config, Job, completions_per_mini_batch, job_of
from dapo_lightning.plan.memory import phases
from dapo_lightning.plan.model import ModelSizes, as_text, sizes_of


@dataclass(frozen=True)
class Assessment:
    """The needs of a configuration."""

    sizes: ModelSizes
    job: Job
    cluster: Cluster
    phases: Mapping[str, Mapping[str, float]]  # bytes at the peak of each phase, by their use
    work: tuple[Work, ...]
    obstacles: tuple[str, ...]  # sentences, each with a reason other than memory why it cannot run

    @property
    def fits(self) -> bool:
        return not self.obstacles and self.excess_bytes == 0

    @property
    def totals(self) -> dict[str, float]:
        """Bytes at the peak of each phase."""
        return {name: sum(items.values()) for name, items in self.phases.items()}

    @property
    def excess_bytes(self) -> float:
        """Missing memory, summed over the phases."""
        return sum(max(0.0, total - self.cluster.usable_bytes) for total in self.totals.values())

    @property
    def loading_bytes(self) -> float:
        """Host memory that each rank needs to load the policy, its reference copy and the critic: all weights, or only
        the parts of the rank if they are read into shards."""
        weights = self.sizes.part(self.cluster.num_accelerators) if self.job.sharded else self.sizes.parameters
        copies_critic = self.job.has_critic and self.job.lora_rank is None
        return float(self.job.weight_bytes * weights * (1 + self.job.copies_reference + copies_critic))

    @property
    def seconds(self) -> float:
        """The minimum time of a DAPO step."""
        return sum(part.seconds(self.job, self.cluster) for part in self.work)


def assess(config: Config, model_config: PreTrainedConfig, cluster: Cluster) -> Assessment:
    """Assesses a configuration; the model is counted once for all assessments."""
    sizes, job = sizes_of(model_config), job_of(config, cluster)
    saved = saved_bytes(as_text(model_config), job.autocast, job.hidden_bytes == 2)
    needs = phases(sizes, saved, job, cluster), work(sizes, job, cluster)
    return Assessment(sizes, job, cluster, *needs, tuple(_obstacles(config, sizes, job, cluster)))


def _obstacles(config: Config, sizes: ModelSizes, job: Job, cluster: Cluster) -> Iterator[str]:
    completions = completions_per_mini_batch(config)
    if completions % cluster.num_accelerators:
        yield (
            f"the {completions} completions of a mini-batch (num_prompts_per_step={config['num_prompts_per_step']} / "
            f"num_gradient_steps={config['num_gradient_steps']} x num_completions_per_prompt="
            f"{config['num_completions_per_prompt']}) cannot be divided equally among {cluster.num_accelerators} "
            f"ranks: use at most {completions} ranks, and a number that divides it."
        )
    yield from engine.obstacles(sizes, job, cluster)
