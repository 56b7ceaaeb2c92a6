"""Bytes on the rank that needs the most, in each phase of a DAPO step.

Weights, the reference copy and, unless they are offloaded, optimizer states are held throughout. So is the share of a
rollout engine, which frees most of it during updates if it can sleep. Gradients are held only during the update, since
`zero_grad` frees them. What one phase needs is free again in the next; caching allocators keep and reuse it. Not
counted: memory of the system and of libraries (`Cluster.usable_share`), checkpoints, completions.

All completions are assumed to have the maximal length, since memory must suffice for the worst batch.
"""

from __future__ import annotations

from math import ceil

import numpy as np

from dapo_lightning.forward.head import CHUNK_LOGITS
from dapo_lightning.plan import engine
from dapo_lightning.plan.accelerators import Cluster
from dapo_lightning.plan.activations import MicroBatch
from dapo_lightning.plan.job import Job, Sampled
from dapo_lightning.plan.model import ModelSizes
from dapo_lightning.rollout import Memory
from dapo_lightning.rollout.shared_cache import FIRST_CAPACITY

GRADIENT_BYTES = 4  # gradients and optimizer states belong to float32 weights

Items = dict[str, float]


def phases(sizes: ModelSizes, saved: np.ndarray, job: Job, cluster: Cluster) -> dict[str, Items]:
    """Returns the bytes at the peak of each phase of a DAPO step and of the evaluation, by their use.

    Args:
        saved: from `saved_bytes`.
    """
    part = sizes.part(cluster.num_accelerators)
    weights = float(job.weight_bytes * (part if job.sharded else sizes.parameters))
    of_adapters = sizes.trained(job.lora_rank) / (cluster.num_accelerators if job.sharded else 1)
    trained = GRADIENT_BYTES * (float(part) if job.sharded and job.lora_rank is None else of_adapters)
    held = {"weights": weights + (0.0 if job.lora_rank is None else trained)}
    if job.copies_reference:
        held["reference copy"] = weights
    everything = trained
    if job.has_critic:
        critic = sizes.critic()
        own = critic.part(cluster.num_accelerators) if job.sharded else critic.parameters
        trained_of_critic = own if job.lora_rank is None else critic.trained(job.lora_rank) + sizes.hidden
        held["critic"] = float((job.weight_bytes if job.lora_rank is None else GRADIENT_BYTES) * trained_of_critic)
        if job.sharded and job.lora_rank is not None:  # FSDP2 makes shards of its own from shared weights
            held["critic"] += float(job.weight_bytes * own)
        everything += GRADIENT_BYTES * trained_of_critic
    states = {"optimizer states": job.optimizer_states * everything}
    if not job.offloads:
        held |= states
    sampling = held
    if job.rollout is Memory.ENGINE:
        sampling = held | {"rollout engine": engine.awake(job, cluster)}
        held = held | {"rollout engine": engine.ASLEEP} if job.engine_sleeps else sampling
    updated = held | {"gradients": everything} | ({"DDP's buckets": trained} if job.replicated else {})
    micro_batch = largest_micro_batch(job)
    has_forward = job.num_logp_passes or job.marks_tokens
    log_probs = {"log-probs": held | _forward(sizes, job, micro_batch)} if has_forward else {}
    return {
        "generate": sampling | _sampling(sizes, job, job.train, cluster),
        **log_probs,
        **({"values": held | _forward(sizes.critic(), job, micro_batch)} if job.has_critic else {}),
        "update": updated | _backward(sizes, saved, job, micro_batch),
        "optimizer step": updated | states | ({} if job.fused else {"optimizer's workspace": everything}),
        "evaluate": sampling | _sampling(sizes, job, job.evaluation, cluster),
    }


def largest_micro_batch(job: Job) -> MicroBatch:
    """Returns as many completions of full length as the budget allows, at least one.

    With shared prompts, completions of all lengths fill the budget, so their number may be a fraction.
    """
    prompt, longest, budget = job.train.prompt_tokens, job.train.max_new_tokens, job.micro_batch_tokens
    if not job.shares_prompts:
        padded = max(1, budget // (prompt + longest))
        return MicroBatch(padded, prompt, padded, longest)
    rows = min(max(1.0, (budget - prompt) / longest), job.num_rows)
    return MicroBatch(ceil(rows / job.train.num_completions), prompt, rows, longest)


def _backward(sizes: ModelSizes, saved: np.ndarray, job: Job, micro_batch: MicroBatch) -> Items:
    """The peak is at the start of the backward pass, in the LM head or, with a small vocabulary, in the last layer.

    In the head there are three float32 numbers per logit: log-softmax saves one, and its backward makes one from
    another; or the gradient of the head's weights is made beside that of the logits. In a layer there are gradients of
    three tensors as wide as its widest product. With recomputation, one layer's activations come on top of the inputs
    of all layers.
    """
    layer, around = (saved @ micro_batch.counts()).tolist()
    inputs = job.hidden_bytes * sizes.hidden * micro_batch.fed
    logits = _logits(sizes, micro_batch)
    # A new gradient of the head's weights is made in the compute type and then converted to the type of the weights.
    gradient_bytes = GRADIENT_BYTES + (job.compute_bytes if job.autocast else 0)
    to_weights = 0 if job.sharded or job.lora_rank is not None else gradient_bytes * sizes.head
    in_head = max(12 * logits, 4 * logits + to_weights)
    in_layer = _layer_workspace(sizes, job, micro_batch) + (layer if job.recomputes else 0)
    reduced = job.compute_bytes * (sizes.outside + sizes.layer) + GRADIENT_BYTES * sizes.layer
    return {
        "activations": around + sizes.num_layers * (inputs if job.recomputes else layer),
        "logits, or a layer's workspace": max(in_head, in_layer),
        **_gathered(sizes, job),
        **({"gradients before they are sharded": float(reduced)} if job.sharded else {}),
    }


def _logits(sizes: ModelSizes, micro_batch: MicroBatch) -> float:
    """Logits that exist at the same time. (Models that scale or cap their logits compute all of them at once.)"""
    return min(micro_batch.predicted * sizes.vocabulary, CHUNK_LOGITS)


def _layer_workspace(sizes: ModelSizes, job: Job, micro_batch: MicroBatch) -> float:
    return 3.0 * job.compute_bytes * sizes.widest * micro_batch.fed


def _gathered(sizes: ModelSizes, job: Job) -> Items:
    """FSDP2 gathers the next layer while one computes."""
    return {"gathered layers": job.compute_bytes * float(sizes.outside + 2 * sizes.layer)} if job.sharded else {}


def _forward(sizes: ModelSizes, job: Job, micro_batch: MicroBatch) -> Items:
    """Without gradients: one layer's workspace, then the logits, their float32 form and their log-softmax."""
    logits = _logits(sizes, micro_batch) * (10 if job.compute_bytes == 2 else 8)
    workspace = max(logits, _layer_workspace(sizes, job, micro_batch))
    return {"logits, or a layer's workspace": workspace} | _gathered(sizes, job)


def _sampling(sizes: ModelSizes, job: Job, sampled: Sampled, cluster: Cluster) -> Items:
    if job.rollout is Memory.ENGINE:  # weights are transferred one by one, and then checked in a forward pass
        checked = 2 * sum(_gathered(sizes, job).values())  # once in the buffers of the exchange, and once as weights
        return {"weights being transferred": max(engine.transfer(sizes, job), checked)}
    whole = {"whole weights": float(job.compute_bytes * sizes.parameters)} if job.sharded else {}  # `sharding.gathered`
    copy = {"weights for decoding": decode_copy(sizes, job, cluster)} if job.rollout is Memory.DECODE else {}
    logits = sampled.rows * sizes.vocabulary * (job.compute_bytes + (36 if sampled.narrows else 16))
    prompts = MicroBatch(sampled.prompts_at_once, sampled.prompt_tokens, 0, 1)
    return {
        **whole,
        **copy,
        **kv_cache(sizes, job, sampled),
        "logits, or reading prompts": max(float(logits), _layer_workspace(sizes, job, prompts)),
        "tokens, log-probs, noise": 20.0 * sampled.rows * sampled.max_new_tokens,
    }


def decode_copy(sizes: ModelSizes, job: Job, cluster: Cluster) -> float:
    """Returns the bytes that `rollout/weights.py` takes: on a CPU for all linear layers, rearranged; under autocast for
    the trained ones, in bf16. Gathered weights are in bf16 already."""
    casts = job.autocast and not job.sharded and job.lora_rank is None
    return job.compute_bytes * float(sizes.linear) if cluster.accelerator.is_cpu or casts else 0.0


def kv_cache(sizes: ModelSizes, job: Job, sampled: Sampled) -> Items:
    """Returns the bytes of keys and values in a batch whose completions all reach the limit.

    `SharedPromptCache` keeps each prompt once and doubles the memory of completions as they grow, one layer after the
    other, so the old keys of the last layer still exist beside the new ones. Hugging Face's cache repeats the prompt in
    each row and makes a new tensor at each token. Under autocast keys are float32, as are rotary embeddings.
    """
    key, value = 4 if job.autocast and not job.sharded else job.compute_bytes, job.compute_bytes
    steps, rows = sampled.max_new_tokens - 1, sampled.rows
    if job.shares_prompts and job.rollout is Memory.DECODE:
        own, prompts = rows * capacity(steps), sampled.prompts_at_once * sampled.prompt_tokens
        old = own // 2 if steps > FIRST_CAPACITY else 0
    else:
        own = old = rows * (sampled.prompt_tokens + steps)
        prompts = 0
    return {
        "KV cache": sizes.num_layers * sizes.cache * float(own + prompts) * (key + value),
        "KV cache, while it grows": float(sizes.cache * old * key),
    }


def capacity(num_tokens: int) -> int:
    """Returns the number of tokens for which the cache has room after `num_tokens` were added one by one."""
    return FIRST_CAPACITY * 2 ** max(0, ceil(num_tokens / FIRST_CAPACITY) - 1).bit_length()
