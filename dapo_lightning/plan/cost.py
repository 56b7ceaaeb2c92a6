"""Operations and bytes of a DAPO step on each rank, and the seconds that they take at least.

Assumes
- two operations per multiply-accumulate; linear layers and attention count, nothing else;
- attention: 4 operations per number of the query heads and pair of tokens, whole rectangles (see `MicroBatch.pairs`);
- an update is three forward passes, backward being twice one; four with gradient checkpointing, which repeats it; a
  pass of the linear layers less with adapters, whose own products are not counted;
- each prompt is read once for its completions; in the update once per micro-batch that it is in;
- decoding: every step reads all linear weights, each prompt's keys and values once, each completion's own once. The
  longest completion of a batch goes to the limit, the others end at the mean length, and leave;
- any rollout is as good as `decode`; vLLM is taken to decode all completions of a rank at once;
- dynamic sampling generates 1 / keep rate times the groups that are trained on;
- peaks of operations, memory and links are reached at once and overlap: the floor is the largest of the three times.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from dapo_lightning.plan.accelerators import Cluster
from dapo_lightning.plan.activations import MicroBatch
from dapo_lightning.plan.job import Job
from dapo_lightning.plan.model import ModelSizes


@dataclass(frozen=True)
class Work:
    """Of one part of a DAPO step, on one rank: operations, bytes of its memory read and written, bytes received."""

    name: str
    flops: float
    bytes: float
    exchanged: float

    def seconds(self, job: Job, cluster: Cluster) -> float:
        """The floor."""
        chip = cluster.accelerator
        peak = chip.bf16_flops if job.compute_bytes == 2 else chip.fp32_flops
        return max(self.flops / peak, self.bytes / chip.bandwidth, self.exchanged / cluster.exchange_bandwidth)


def work(sizes: ModelSizes, job: Job, cluster: Cluster) -> tuple[Work, ...]:
    """Generate, further log-probs if any are needed, update."""
    parts = [_generate(sizes, job, cluster)]
    if job.num_logp_passes:
        parts.append(_logps(sizes, job, cluster))
    return (*parts, _update(sizes, job, cluster))


def forward_flops(sizes: ModelSizes, micro_batch: MicroBatch) -> float:
    """Of one forward pass."""
    return linear_flops(sizes, micro_batch) + 4.0 * sizes.attention * micro_batch.pairs


def linear_flops(sizes: ModelSizes, micro_batch: MicroBatch) -> float:
    """Those of its linear layers."""
    return 2.0 * sizes.body * micro_batch.fed + 2.0 * sizes.head * micro_batch.predicted


def mini_batch(job: Job) -> tuple[MicroBatch, int]:
    """All completions of this rank in a gradient step, and the micro-batches that they take, at the mean length."""
    prompt, mean = job.train.prompt_tokens, max(1, round(job.train.mean_tokens))
    rows = job.num_groups * job.train.num_completions
    if not job.shares_prompts:
        count = ceil(rows / max(1, job.micro_batch_tokens // (prompt + mean)))
        return MicroBatch(rows, prompt, rows, mean), count
    count = ceil(rows / max(1, (job.micro_batch_tokens - prompt) // mean))
    return MicroBatch(max(job.num_groups, count), prompt, rows, mean), count


def _generate(sizes: ModelSizes, job: Job, cluster: Cluster) -> Work:
    sampled = job.train
    mean, prompts = sampled.mean_tokens, sampled.num_groups
    rows = prompts * sampled.num_completions
    pairs = prompts * sampled.prompt_tokens**2 + rows * mean * (sampled.prompt_tokens + mean / 2)
    flops = (
        2.0 * sizes.body * (prompts * sampled.prompt_tokens + rows * mean)
        + 2.0 * sizes.head * rows * mean
        + 4.0 * sizes.attention * pairs
    )
    per_token = sizes.num_layers * sizes.cache * 2 * job.compute_bytes
    cached = prompts * sampled.prompt_tokens * sampled.max_new_tokens + rows * mean**2 / 2
    steps = sampled.num_batches * sampled.max_new_tokens
    read = job.compute_bytes * (sizes.body + sizes.head) * steps + per_token * cached
    return Work("generate", flops, float(read), _others(job, cluster) * job.compute_bytes * sizes.parameters)


def _logps(sizes: ModelSizes, job: Job, cluster: Cluster) -> Work:
    part, count = mini_batch(job)
    passes = job.num_logp_passes * job.num_gradient_steps
    return Work(
        "log-probs",
        passes * forward_flops(sizes, part),
        float(passes * count * job.compute_bytes * (sizes.body + sizes.head)),
        _others(job, cluster) * passes * count * job.compute_bytes * sizes.parameters,
    )


def _update(sizes: ModelSizes, job: Job, cluster: Cluster) -> Work:
    """Weights are read forward and backward, and once more where activations are recomputed; gradients are written;
    the optimizer reads and writes weight and states, and reads the gradient.

    FSDP2 gathers all weights forward and backward and exchanges the gradients in each micro-batch; DDP exchanges
    gradients once per gradient step, twice their size.
    """
    part, count = mini_batch(job)
    passes = 3 + job.recomputes
    linear = sizes.body + sizes.head
    written = linear if job.lora_rank is None else sizes.trained(job.lora_rank)
    ranks = cluster.num_accelerators if job.sharded else 1
    per_step: float = count * (job.compute_bytes * (passes - 1) * linear + 4 * written)
    per_step += 4 * (3 + 2 * job.optimizer_states) * sizes.trained(job.lora_rank) / ranks
    others = (cluster.num_accelerators - 1) / cluster.num_accelerators
    exchanged = 0.0
    if job.sharded:
        exchanged = count * others * (2 * job.compute_bytes + 4) * sizes.parameters
    elif job.replicated:
        exchanged = 2 * others * 4 * sizes.trained(job.lora_rank)
    steps, flops = job.num_gradient_steps, passes * forward_flops(sizes, part)
    if job.lora_rank is not None:  # no gradients of frozen weights
        flops -= linear_flops(sizes, part)
    return Work("update", steps * flops, float(steps * per_step), steps * exchanged)


def _others(job: Job, cluster: Cluster) -> float:
    """Share of the weights that a rank must fetch from others."""
    return (cluster.num_accelerators - 1) / cluster.num_accelerators if job.sharded else 0.0
