"""Bytes on the rank that needs the most, in each phase of a DAPO step.

What is held throughout: weights, optimizer states, the reference copy, vLLM's share. Gradients are held during the
update only, as `zero_grad` frees them. What one phase needs is free again in the next; caching allocators keep it, but
use it again. Not counted: memory of the system and of libraries (`Cluster.usable_share`), checkpoints, completions.

Completions are all taken to be as long as they may be: memory must do for the worst batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from dapo_lightning.plan.accelerators import Cluster
from dapo_lightning.plan.activations import MicroBatch, Saved
from dapo_lightning.plan.job import Job, Sampled
from dapo_lightning.plan.model import ModelSizes
from dapo_lightning.rollout.cache import FIRST_CAPACITY

GRADIENT_BYTES = 4  # gradients and optimizer states are those of float32 weights


@dataclass(frozen=True)
class Phase:
    """What memory is needed for at the peak of a phase, in bytes."""

    name: str
    items: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.items.values())


def phases(sizes: ModelSizes, saved: Saved, job: Job, cluster: Cluster) -> tuple[Phase, ...]:
    """The phases of a DAPO step, and evaluation."""
    held = _held(sizes, job, cluster)
    trained = float(GRADIENT_BYTES * _trained_part(sizes, job, cluster))
    gradients = {"gradients": trained}
    if job.replicated:
        gradients["DDP's buckets"] = trained
    micro_batch = largest_micro_batch(job)
    step = {} if job.fused else {"optimizer's workspace": trained}
    found = [
        Phase("generate", held | _sampling(sizes, job, job.train, cluster)),
        Phase("update", held | gradients | _backward(sizes, saved, job, micro_batch)),
        Phase("optimizer step", held | gradients | step),
        Phase("evaluate", held | _sampling(sizes, job, job.evaluation, cluster)),
    ]
    if job.num_logp_passes:
        found.insert(1, Phase("log-probs", held | _forward(sizes, job, micro_batch)))
    return tuple(found)


def _trained_part(sizes: ModelSizes, job: Job, cluster: Cluster) -> int:
    return sizes.part(cluster.num_accelerators) if job.sharded else sizes.trained(job.lora_rank)


def _held(sizes: ModelSizes, job: Job, cluster: Cluster) -> dict[str, float]:
    weights = job.weight_bytes * (sizes.part(cluster.num_accelerators) if job.sharded else sizes.parameters)
    adapters = 0 if job.lora_rank is None else GRADIENT_BYTES * sizes.trained(job.lora_rank)
    states = job.optimizer_states * GRADIENT_BYTES * _trained_part(sizes, job, cluster)
    held = {"weights": float(weights + adapters), "optimizer states": float(states)}
    if job.copies_reference:
        held["reference copy"] = float(weights)
    if job.rollout == "vllm":
        held["vLLM's share"] = job.engine_share * cluster.accelerator.memory_bytes
    return held


def largest_micro_batch(job: Job) -> MicroBatch:
    """Full-length completions, and as many as the budget takes; one that is larger than the budget goes alone.

    With prompts shared, completions of all lengths fill the budget, so their number may be a fraction.
    """
    prompt, longest, room = job.train.prompt_tokens, job.train.max_new_tokens, job.micro_batch_tokens
    if not job.shares_prompts:
        padded = max(1, room // (prompt + longest))
        return MicroBatch(padded, prompt, padded, longest)
    most = job.num_groups * job.train.num_completions
    rows = min(max(1.0, (room - prompt) / longest), most)
    return MicroBatch(ceil(rows / job.train.num_completions), prompt, rows, longest)


def _backward(sizes: ModelSizes, saved: Saved, job: Job, micro_batch: MicroBatch) -> dict[str, float]:
    """The peak is where backward begins, at the LM head, or, if the vocabulary is small, in the last layer.

    At the head, three float32 numbers per logit: log-softmax saves one, and its backward makes one of another; or the
    gradient of the head's weights is made beside that of the logits. In a layer: gradients of three tensors as wide as
    its widest product. With recomputation, one layer's activations come on top of the layers' inputs.
    """
    layer, inputs = saved.of(saved.layer, micro_batch), saved.of(saved.input, micro_batch)
    kept = saved.of(saved.around, micro_batch) + sizes.num_layers * (inputs if job.recomputes else layer)
    logits = micro_batch.predicted * sizes.vocabulary
    to_weights = 0 if job.sharded or job.lora_rank is not None else _with_cast(job) * sizes.head
    head = max(12 * logits, 4 * logits + to_weights)
    in_layer = _layer_workspace(sizes, job, micro_batch) + (layer if job.recomputes else 0)
    items = {"activations": kept, "logits, or a layer's workspace": max(head, in_layer)}
    if job.sharded:
        items["gathered layers"] = job.compute_bytes * float(sizes.outside + 2 * sizes.layer)
        items["gradients before they are sharded"] = float(
            job.compute_bytes * (sizes.outside + sizes.layer) + GRADIENT_BYTES * sizes.layer
        )
    return items


def _with_cast(job: Job) -> int:
    """Bytes of a new gradient: it is made in the compute type, then brought to that of the weights."""
    return GRADIENT_BYTES + (job.compute_bytes if job.autocast else 0)


def _layer_workspace(sizes: ModelSizes, job: Job, micro_batch: MicroBatch) -> float:
    return 3.0 * job.compute_bytes * sizes.widest * micro_batch.fed


def _forward(sizes: ModelSizes, job: Job, micro_batch: MicroBatch) -> dict[str, float]:
    """Without gradients: one layer's workspace, then the logits, their float32 form and their log-softmax."""
    logits = micro_batch.predicted * sizes.vocabulary * (10 if job.compute_bytes == 2 else 8)
    items = {"logits, or a layer's workspace": max(logits, _layer_workspace(sizes, job, micro_batch))}
    if job.sharded:
        items["gathered layers"] = job.compute_bytes * float(sizes.outside + 2 * sizes.layer)
    return items


def _sampling(sizes: ModelSizes, job: Job, sampled: Sampled, cluster: Cluster) -> dict[str, float]:
    items: dict[str, float] = {}
    if job.sharded:  # `sharding.gathered`
        items["whole weights"] = float(job.compute_bytes * sizes.parameters)
    if job.rollout == "vllm":
        return items
    if job.rollout == "decode":
        items["weights for decoding"] = decode_copy(sizes, job, cluster)
    items |= kv_cache(sizes, job, sampled)
    numbers = job.compute_bytes + (36 if sampled.narrows else 16)
    prompts = MicroBatch(sampled.prompts_at_once, sampled.prompt_tokens, 0, 1)
    items["logits, or reading prompts"] = max(
        float(numbers * sampled.rows * sizes.vocabulary), _layer_workspace(sizes, job, prompts)
    )
    items["tokens, log-probs, noise"] = 20.0 * sampled.rows * sampled.max_new_tokens
    return items


def decode_copy(sizes: ModelSizes, job: Job, cluster: Cluster) -> float:
    """What `rollout/weights.py` makes: on a CPU all linear layers, rearranged; under autocast those that are trained,
    in bf16; gathered weights are in bf16 already."""
    linear = job.compute_bytes * float(sizes.body + sizes.head)
    casts = job.autocast and not job.sharded and job.lora_rank is None
    return linear if cluster.accelerator.is_cpu or casts else 0.0


def kv_cache(sizes: ModelSizes, job: Job, sampled: Sampled) -> dict[str, float]:
    """Keys and values of a batch whose completions all run to the end.

    `SharedPromptCache` keeps each prompt once and grows the completions' memory by doubling, one layer after the other:
    the last one's old keys are still there when the new ones are made. Hugging Face's cache repeats the prompt in each
    row and makes a new tensor at every token. Under autocast keys are float32: rotary embeddings are computed in it.
    """
    key, value = 4 if job.autocast and not job.sharded else job.compute_bytes, job.compute_bytes
    steps, rows = sampled.max_new_tokens - 1, sampled.rows
    if job.shares_prompts and job.rollout == "decode":
        own, prompts = rows * capacity(steps), sampled.prompts_at_once * sampled.prompt_tokens
        old = own // 2 if steps > FIRST_CAPACITY else 0
    else:
        own = old = rows * (sampled.prompt_tokens + steps)
        prompts = 0
    tokens = float(own + prompts)
    return {
        "KV cache": sizes.num_layers * sizes.cache * tokens * (key + value),
        "KV cache, while it grows": float(sizes.cache * old * key),
    }


def capacity(num_tokens: int) -> int:
    """Tokens that there is room for once so many have come, one at a time."""
    room = FIRST_CAPACITY
    while room < num_tokens:
        room *= 2
    return room
