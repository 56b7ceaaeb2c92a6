"""Memory of a rollout engine on each rank, and how many completions it generates at once."""

from __future__ import annotations

from collections.abc import Iterator

from dapo_lightning.plan.accelerators import Cluster
from dapo_lightning.plan.job import Job, Sampled
from dapo_lightning.plan.model import ModelSizes
from dapo_lightning.rollout import Memory

WORKSPACE = 3e9  # of its share, for activations, logits and CUDA graphs: an assumption
ASLEEP = 2e9  # what stays during updates, such as CUDA graphs and buffers for communication: an assumption


def awake(job: Job, cluster: Cluster) -> float:
    """Returns the bytes that the engine takes while it generates."""
    return job.engine_share * cluster.accelerator.memory_bytes


def weights(sizes: ModelSizes, job: Job) -> float:
    """Returns the bytes of a rank's part of the engine's weights. (The LM head is stored apart from the embeddings.)"""
    stored = sizes.parameters + (sizes.head if sizes.is_tied else 0)
    return job.engine_bytes * stored / job.engine_ranks


def kv_bytes(sizes: ModelSizes, job: Job) -> float:
    """Returns the bytes of keys and values that a rank keeps for one token. With more ranks than heads of keys, several
    ranks keep the same head."""
    return 2.0 * job.engine_bytes * sizes.num_layers * sizes.cache / min(job.engine_ranks, sizes.key_heads)


def cached_tokens(sizes: ModelSizes, job: Job, cluster: Cluster) -> float:
    """Returns the number of tokens for which the engine has room; negative if its weights do not fit."""
    return (awake(job, cluster) - WORKSPACE - weights(sizes, job)) / kv_bytes(sizes, job)


def transfer(sizes: ModelSizes, job: Job) -> float:
    """Returns the bytes of gathered weights while they are transferred one by one: vLLM collects those of a layer that
    it stores as one."""
    return 2.0 * job.engine_bytes * sizes.largest


def steps(sizes: ModelSizes, job: Job, cluster: Cluster, sampled: Sampled) -> float:
    """Returns the least number of decoding steps: the longest completion needs one for each of its tokens, and the KV
    cache has room for a limited number of completions, which share their prompts and are half finished on average."""
    size = sampled.prompt_tokens / sampled.num_completions + sampled.mean_tokens / 2
    at_once = max(1.0, cached_tokens(sizes, job, cluster) / size)
    rows = job.engine_ranks * sampled.num_groups * sampled.num_completions
    return max(float(sampled.max_new_tokens), rows * sampled.mean_tokens / at_once)


def obstacles(sizes: ModelSizes, job: Job, cluster: Cluster) -> Iterator[str]:
    """Yields sentences with reasons why the engine cannot run."""
    if job.rollout is not Memory.ENGINE:
        return
    number, ranks = job.engine_ranks, cluster.num_accelerators
    if ranks % number or cluster.node_size % number:
        yield (
            f"rollout.tensor_parallel_size={number} must divide the number of ranks ({ranks}) and of the accelerators "
            f"in a node ({cluster.node_size})."
        )
    tokens = job.train.prompt_tokens + max(job.train.max_new_tokens, job.evaluation.max_new_tokens)
    if cached_tokens(sizes, job, cluster) < tokens:
        needed = WORKSPACE + weights(sizes, job) + tokens * kv_bytes(sizes, job)
        yield (
            f"rollout.gpu_memory_utilization={job.engine_share} is too low: the engine needs {needed / 1e9:.3g} GB on "
            "each rank for its weights, its workspace and one completion."
        )
