"""One configuration on one cluster: what it needs, how long it takes at least, and whether it can be."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from dapo_lightning.plan.accelerators import Cluster
from dapo_lightning.plan.activations import saved_bytes
from dapo_lightning.plan.cost import Work, work
from dapo_lightning.plan.job import Config, Job, job_of
from dapo_lightning.plan.memory import Phase, phases
from dapo_lightning.plan.model import ModelSizes, as_text, sizes_of


@dataclass(frozen=True)
class Assessment:
    """What a plan says of a configuration.

    Args:
        obstacles: sentences, each of which says why it cannot run, whatever the memory.
    """

    sizes: ModelSizes
    job: Job
    cluster: Cluster
    phases: tuple[Phase, ...]
    work: tuple[Work, ...]
    obstacles: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not self.obstacles and self.excess_bytes == 0

    @property
    def peak(self) -> Phase:
        """The phase that needs most memory."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def excess_bytes(self) -> float:
        """What the phases lack, summed."""
        return sum(max(0.0, phase.total - self.cluster.usable_bytes) for phase in self.phases)

    @property
    def loading_bytes(self) -> float:
        """Memory of the host that each rank takes to load: the policy whole, and its reference copy, before either is
        moved or sharded."""
        return float(self.job.weight_bytes * self.sizes.parameters * (1 + self.job.copies_reference))

    def seconds(self) -> dict[str, float]:
        """Floor of each part of a DAPO step."""
        return {part.name: part.seconds(self.job, self.cluster) for part in self.work}


def assess(config: Config, model_config: PreTrainedConfig, cluster: Cluster) -> Assessment:
    """Counts everything; the model is counted once, whatever the configuration."""
    sizes, job = sizes_of(model_config), job_of(config, cluster)
    in_bf16 = job.weight_bytes == 2 or (job.autocast and job.sharded)
    saved = saved_bytes(as_text(model_config), job.autocast, in_bf16)
    return Assessment(
        sizes,
        job,
        cluster,
        phases(sizes, saved, job, cluster),
        work(sizes, job, cluster),
        tuple(_obstacles(config, sizes, job, cluster)),
    )


def most_ranks(config: Config) -> int:
    """Among which the groups of a mini-batch can be dealt."""
    return max(1, config["num_prompts_per_step"] // config["num_gradient_steps"])


def _obstacles(config: Config, sizes: ModelSizes, job: Job, cluster: Cluster) -> list[str]:
    found: list[str] = []
    ranks, prompts, steps = cluster.num_accelerators, config["num_prompts_per_step"], config["num_gradient_steps"]
    if prompts % (steps * ranks):
        found.append(
            f"num_prompts_per_step={prompts} in num_gradient_steps={steps} mini-batches cannot be dealt equally to "
            f"{ranks} ranks: each must get whole groups, so at most {most_ranks(config)} ranks have work, in numbers "
            "that divide it."
        )
    if job.lora_rank is not None and job.sharded:
        found.append("policy=lora with trainer=fsdp2 is refused: use trainer=ddp.")
    if job.rollout == "vllm":
        tokens = job.train.prompt_tokens + max(job.train.max_new_tokens, job.evaluation.max_new_tokens)
        needed = 2.0 * (sizes.parameters + 2 * sizes.num_layers * sizes.cache * tokens)
        if needed > job.engine_share * cluster.accelerator.memory_bytes:
            found.append(
                f"rollout.gpu_memory_utilization={job.engine_share}: vLLM needs {needed / 1e9:.0f} GB for its copy of "
                "the weights and one completion."
            )
    return found
