"""Operations and bytes of a DAPO step on each rank, and the minimum time that they take.

Assumptions:
- a multiply-accumulate is two operations; only linear layers and attention count;
- attention takes 4 operations per dimension of the query heads and pair of tokens (see `MicroBatch.pairs`);
- an update is three forward passes, since a backward pass is two; four with activation checkpointing, which repeats the
  forward pass. With adapters, the linear layers take one pass less; the adapters' own products are not counted;
- each prompt is read once for its completions; in the update, once in each micro-batch that contains it;
- each decoding step reads all linear weights, each prompt's keys and values once, and each completion's own once. The
  longest completion of a batch reaches the limit; the others end at the mean length and leave the batch;
- every rollout is as fast as `decode`, but an engine decodes as many completions at once as fit into its KV cache;
  ranks that share one divide weights and heads, and exchange hidden states twice in each layer;
- copies of optimizer states to and from host memory (`trainer.offload_optimizer`) take no time;
- dynamic sampling generates 1 / keep rate times the groups that are trained on;
- peak rates of operations, memory and links are attained and overlap, so the minimum time is the longest of the three.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from dapo_lightning.plan import engine
from dapo_lightning.plan.accelerators import Cluster
from dapo_lightning.plan.activations import MicroBatch
from dapo_lightning.plan.job import Job
from dapo_lightning.plan.model import ModelSizes
from dapo_lightning.rollout import Memory

TOKEN_BYTES = 8  # what travels to the rank that trains on a token: its number and its log-prob
COMPLETION_BYTES = 250  # sent to all ranks for each completion, as measured by benchmarks/exchange.py


@dataclass(frozen=True)
class Work:
    """One part of a DAPO step on one rank."""

    name: str
    flops: float
    bytes: float  # read and written in its memory
    exchanged: float  # bytes received from all other ranks
    shared: float = 0.0  # bytes received from the ranks of the node that share an engine

    def seconds(self, job: Job, cluster: Cluster) -> float:
        """The minimum time."""
        chip = cluster.accelerator
        peak = chip.bf16_flops if job.compute_bytes == 2 else chip.fp32_flops
        received = self.exchanged / cluster.exchange_bandwidth + self.shared / chip.link_bandwidth
        return max(self.flops / peak, self.bytes / chip.bandwidth, received)


def work(sizes: ModelSizes, job: Job, cluster: Cluster) -> tuple[Work, ...]:
    """Returns generation, further log-probs and marks if needed, and the update; of a critic, values and update."""
    gathered = _received(sizes, job, cluster) * job.compute_bytes
    batch, num_micro_batches = mini_batch(job)
    passes = job.num_logp_passes * job.num_gradient_steps

    def forward_passes(name: str, sizes: ModelSizes, passes: int) -> Work:
        read = float(passes * num_micro_batches * job.compute_bytes * sizes.linear)
        return Work(name, passes * forward_flops(sizes, batch), read, passes * num_micro_batches * gathered)

    generate = _generate_with_engine if job.rollout is Memory.ENGINE else _generate
    parts = [generate(sizes, job, cluster), *([forward_passes("log-probs", sizes, passes)] if passes else [])]
    if job.marks_tokens:
        parts.append(forward_passes("marks", sizes, job.num_gradient_steps * job.num_epochs))
    parts.append(_update("update", sizes, job, cluster, gathered))
    if job.has_critic:
        parts.append(forward_passes("values", sizes.critic(), job.num_gradient_steps))
        parts.append(_update("critic's update", sizes.critic(), job, cluster, gathered))
    return tuple(parts)


def forward_flops(sizes: ModelSizes, micro_batch: MicroBatch) -> float:
    """Returns the operations of a forward pass."""
    return _linear_flops(sizes, micro_batch.fed, micro_batch.predicted) + 4.0 * sizes.attention * micro_batch.pairs


def _linear_flops(sizes: ModelSizes, fed: float, predicted: float) -> float:
    return 2.0 * sizes.body * fed + 2.0 * sizes.head * predicted


def mini_batch(job: Job) -> tuple[MicroBatch, int]:
    """Returns this rank's completions in a gradient step, at the mean length, and the number of micro-batches."""
    prompt, mean = job.train.prompt_tokens, max(1, round(job.train.mean_tokens))
    rows = job.num_rows
    if not job.shares_prompts:
        return MicroBatch(rows, prompt, rows, mean), ceil(rows / max(1, job.micro_batch_tokens // (prompt + mean)))
    count = ceil(rows / max(1, (job.micro_batch_tokens - prompt) // mean))
    return MicroBatch(max(job.num_prompts, count), prompt, rows, mean), count


def _generate(sizes: ModelSizes, job: Job, cluster: Cluster) -> Work:
    steps = ceil(job.train.num_groups / job.train.prompts_at_once) * job.train.max_new_tokens
    read = sizes.linear * steps + 2 * sizes.num_layers * sizes.cache * _cached(job)
    gathered = _received(sizes, job, cluster) * job.compute_bytes
    return Work("generate", _generated_flops(sizes, job), float(job.compute_bytes * read), gathered)


def _generate_with_engine(sizes: ModelSizes, job: Job, cluster: Cluster) -> Work:
    """A rank computes a part of the completions of all ranks that share the engine, as much as for its own alone."""
    train, number = job.train, job.engine_ranks
    weights = job.engine_bytes * sizes.linear / number * engine.steps(sizes, job, cluster, train)
    tokens = number * train.num_groups * (train.prompt_tokens + train.num_completions * train.mean_tokens)
    sums = 2 * sizes.num_layers * sizes.hidden * tokens  # of two products in each layer, each over all ranks
    return Work(
        "generate",
        _generated_flops(sizes, job),
        weights + number * _cached(job) * engine.kv_bytes(sizes, job),
        _received(sizes, job, cluster) * job.engine_bytes,
        2 * (number - 1) / number * job.engine_bytes * sums,
    )


def _generated_flops(sizes: ModelSizes, job: Job) -> float:
    prompts, tokens, mean = job.train.num_groups, job.train.prompt_tokens, job.train.mean_tokens
    rows = prompts * job.train.num_completions
    pairs = prompts * tokens**2 + rows * mean * (tokens + mean / 2)
    return _linear_flops(sizes, prompts * tokens + rows * mean, rows * mean) + 4.0 * sizes.attention * pairs


def _cached(job: Job) -> float:
    """Tokens read from the cache."""
    prompts, train = job.train.num_groups, job.train
    return prompts * (train.prompt_tokens * train.max_new_tokens + train.num_completions * train.mean_tokens**2 / 2)


def _received(sizes: ModelSizes, job: Job, cluster: Cluster) -> float:
    """Numbers that a rank receives if all weights are gathered once."""
    others = (cluster.num_accelerators - 1) / cluster.num_accelerators  # share of a sharded weight on other ranks
    return others * sizes.parameters if job.sharded else 0.0


def _update(name: str, sizes: ModelSizes, job: Job, cluster: Cluster, gathered: float) -> Work:
    """Weights are read in the forward and the backward pass, and once more if activations are recomputed; gradients are
    written; the optimizer reads and writes weights and states, and reads gradients.

    The tokens and log-probs of completions come from the ranks that generated them; all ranks know their statistics. In
    each micro-batch FSDP2 gathers all weights twice and exchanges the gradients; DDP exchanges the gradients once per
    gradient step, twice their size.
    """
    batch, num_micro_batches = mini_batch(job)
    passes, trained = 3 + job.recomputes, sizes.trained(job.lora_rank)
    flops = passes * forward_flops(sizes, batch)
    if job.lora_rank is not None:  # frozen weights need no gradients
        flops -= _linear_flops(sizes, batch.fed, batch.predicted)
    written = sizes.linear if job.lora_rank is None else trained
    num_bytes = num_micro_batches * (job.compute_bytes * (passes - 1) * sizes.linear + 4 * written)
    optimizer_bytes = 4 * (3 + 2 * job.optimizer_states) * trained / (cluster.num_accelerators if job.sharded else 1)
    others = (cluster.num_accelerators - 1) / cluster.num_accelerators
    exchanged = 2 * others * 4 * trained if job.replicated else 0.0
    if job.sharded:
        exchanged = num_micro_batches * (2 * gathered + others * 4 * sizes.parameters)
    steps, rows = job.num_gradient_steps * job.num_epochs, others * job.num_rows / job.num_epochs
    exchanged += rows * (COMPLETION_BYTES * cluster.num_accelerators + TOKEN_BYTES * job.train.mean_tokens)
    return Work(name, steps * flops, steps * (num_bytes + optimizer_bytes), steps * exchanged)
