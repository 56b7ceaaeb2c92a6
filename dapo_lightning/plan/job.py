"""What a plan needs of a run's configuration, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pkgutil import resolve_name
from typing import Any

from dapo_lightning.plan.accelerators import Cluster

Config = Mapping[str, Any]
"""The resolved configuration, keys as in conf/config.yaml, and a group `plan` beside them."""


@dataclass(frozen=True)
class Sampled:
    """How completions are sampled, in training or in evaluation.

    Args:
        num_groups: prompts that each rank samples, in all rounds of a DAPO step.
        num_completions: of each prompt.
        max_rows: completions decoded at once, at least one prompt's.
        prompt_tokens, max_new_tokens, mean_tokens: of a prompt, of the longest completion, of the average one.
        narrows: whether top_p < 1, which takes sorting.
    """

    num_groups: int
    num_completions: int
    max_rows: int
    prompt_tokens: int
    max_new_tokens: int
    mean_tokens: float
    narrows: bool

    @property
    def prompts_at_once(self) -> int:
        return min(self.num_groups, max(1, self.max_rows // self.num_completions))

    @property
    def rows(self) -> int:
        """Completions in the batch, at first."""
        return self.prompts_at_once * self.num_completions

    @property
    def num_batches(self) -> int:
        return ceil(self.num_groups / self.prompts_at_once)


@dataclass(frozen=True)
class Job:
    """A DAPO step on one rank.

    Args:
        train, evaluation: how completions are sampled.
        num_groups: prompts of the mini-batch with the most of them, of this rank.
        num_gradient_steps: mini-batches per rollout.
        micro_batch_tokens: the budget.
        sharded, replicated: FSDP2, or DDP on more than one rank; neither: a single process.
        autocast: compute in bf16, with weights of `weight_bytes` each.
        compute_bytes: of a number in matrix products.
        lora_rank: of the adapters that alone are trained; None: all weights are.
        optimizer_states: numbers that the optimizer keeps of each weight that is trained.
        fused: whether the optimizer needs no memory for a step.
        recomputes: gradient checkpointing.
        num_logp_passes: further forward passes over what is trained on: old log-probs, where those of the rollout are
            not exact, and the reference's.
        copies_reference: whether a copy of the policy is kept for the penalty. With adapters it is the policy without.
        shares_prompts: whether a prompt is computed once for its completions.
        rollout: decode, transformers or vllm.
        engine_share: of the memory that vLLM takes for itself.
    """

    train: Sampled
    evaluation: Sampled
    num_groups: int
    num_gradient_steps: int
    micro_batch_tokens: int
    sharded: bool
    replicated: bool
    autocast: bool
    weight_bytes: int
    compute_bytes: int
    lora_rank: int | None
    optimizer_states: int
    fused: bool
    recomputes: bool
    num_logp_passes: int
    copies_reference: bool
    shares_prompts: bool
    rollout: str
    engine_share: float


OPTIMIZER_STATES = {"Adam": 2, "AdamW": 2, "SGD": 0, "RMSprop": 1, "Adagrad": 1, "Lion": 1}


def job_of(config: Config, cluster: Cluster) -> Job:
    """Reads the configuration. Techniques are asked for what they need, not known by name.

    Raises:
        ValueError: for expectations without meaning.
    """
    policy, rollout = config["policy"], resolve_name(config["rollout"]["_target_"])
    lora, in_float32 = policy.get("lora"), policy.get("dtype", "float32") == "float32"
    autocast = str(config["trainer"]["precision"]) == "bf16-mixed"
    needs_reference = bool(resolve_name(config["kl"]["_target_"]).needs_reference)
    recomputes_logps = not (config["trainer"]["precision"] == "32-true" and in_float32 and rollout.exact_logps)
    optimizer, ranks = config["optimizer"], cluster.num_accelerators
    sharded = "FSDP2" in str(config["trainer"]["strategy"]) and ranks > 1
    states = OPTIMIZER_STATES.get(optimizer["_target_"].rpartition(".")[2], 2)
    return Job(
        train=_training(config, ranks),
        evaluation=_evaluation(config, ranks),
        num_groups=ceil(config["num_prompts_per_step"] / config["num_gradient_steps"] / ranks),
        num_gradient_steps=config["num_gradient_steps"],
        micro_batch_tokens=config["micro_batch_tokens"],
        sharded=sharded,
        replicated=ranks > 1 and not sharded,
        autocast=autocast,
        weight_bytes=4 if in_float32 else 2,
        compute_bytes=2 if autocast or not in_float32 else 4,
        lora_rank=lora["rank"] if lora else None,
        optimizer_states=states + (states == 0 and bool(optimizer.get("momentum"))),
        fused=bool(optimizer.get("fused")),
        recomputes=bool(policy.get("gradient_checkpointing")),
        num_logp_passes=recomputes_logps + needs_reference,
        copies_reference=needs_reference and not lora,
        shares_prompts=policy.get("attention", "auto") == "auto",
        rollout=rollout.__name__.lower(),
        engine_share=config["rollout"].get("gpu_memory_utilization", 0.0),
    )


def _training(config: Config, ranks: int) -> Sampled:
    """Dynamic sampling generates 1 / keep rate times what is trained on."""
    plan, longest = config.get("plan", {}), config["max_new_tokens"]
    is_dynamic = "max_rounds" in config["sampling"]
    expected = plan.get("keep_rate", 0.5)
    keep_rate = 1.0 if not is_dynamic else 0.5 if expected is None else expected
    if not 0 < keep_rate <= 1:
        raise ValueError(f"plan.keep_rate={keep_rate}: a share of the groups, above 0 and at most 1.")
    num_groups = ceil(config["num_prompts_per_step"] / keep_rate / ranks)
    return Sampled(
        num_groups=num_groups,
        num_completions=config["num_completions_per_prompt"],
        max_rows=config["rollout"].get("max_rows") or num_groups * config["num_completions_per_prompt"],
        prompt_tokens=prompt_tokens(config),
        max_new_tokens=longest,
        mean_tokens=min(plan.get("mean_tokens") or longest, longest),
        narrows=config["top_p"] < 1,
    )


def _evaluation(config: Config, ranks: int) -> Sampled:
    """If all held-out prompts are asked for, there are taken to be as many as a step trains on."""
    held_out = config["evaluation"]
    num_groups = ceil((held_out["num_prompts"] or max(ranks, config["num_prompts_per_step"])) / ranks)
    longest = held_out["max_new_tokens"]
    return Sampled(
        num_groups=num_groups,
        num_completions=held_out["num_completions"],
        max_rows=config["rollout"].get("max_rows") or num_groups * held_out["num_completions"],
        prompt_tokens=prompt_tokens(config),
        max_new_tokens=longest,
        mean_tokens=min(config.get("plan", {}).get("mean_tokens") or longest, longest),
        narrows=held_out["top_p"] < 1,
    )


def prompt_tokens(config: Config) -> int:
    """Of a prompt: `plan.prompt_tokens`, else the longest that is let through, else 512."""
    return int(config.get("plan", {}).get("prompt_tokens") or config["max_prompt_tokens"] or 512)
