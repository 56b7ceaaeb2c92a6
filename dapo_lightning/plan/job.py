"""A DAPO step on one rank as plain numbers, read from a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pkgutil import resolve_name
from typing import Any

import torch

from dapo_lightning.plan.accelerators import Cluster
from dapo_lightning.rollout import Memory
from dapo_lightning.utils.options import option_attribute

Config = Mapping[str, Any]
"""The resolved configuration with the keys of conf/config.yaml."""


@dataclass(frozen=True)
class Sampled:
    """How one rank samples completions in training or in evaluation."""

    num_groups: int  # prompts sampled in all rounds of a DAPO step
    num_completions: int  # of each prompt
    max_rows: int  # limit on completions decoded at once; never less than one prompt's
    prompt_tokens: int
    max_new_tokens: int
    mean_tokens: float  # of a completion
    narrows: bool  # top_p < 1, which requires sorting

    @property
    def prompts_at_once(self) -> int:
        return min(self.num_groups, max(1, self.max_rows // self.num_completions))

    @property
    def rows(self) -> int:
        """Completions in a batch when it begins."""
        return self.prompts_at_once * self.num_completions


@dataclass(frozen=True)
class Job:
    """A DAPO step on one rank."""

    train: Sampled
    evaluation: Sampled
    num_rows: int  # completions in this rank's largest mini-batch
    num_gradient_steps: int  # mini-batches per pass over a rollout
    num_epochs: int  # passes over a rollout
    micro_batch_tokens: int  # budget of a forward pass in the update
    sharded: bool  # FSDP2 on more than one rank
    replicated: bool  # DDP on more than one rank
    autocast: bool  # computes in bf16 with weights of `weight_bytes` each
    weight_bytes: int
    compute_bytes: int  # of a number in matrix products
    lora_rank: int | None  # of the adapters, which alone are trained; None: all weights are
    optimizer_states: int  # numbers kept for each trained weight
    fused: bool  # an optimizer step needs no workspace
    recomputes: bool  # activation checkpointing
    offloads: bool  # optimizer states are in host memory between the optimizer's steps
    num_logp_passes: int  # forward passes for old log-probs, unless the rollout's are exact, and for the reference's
    marks_tokens: bool  # a forward pass before each gradient step, for options that look at the whole mini-batch
    copies_reference: bool  # with adapters, the reference is the policy without them
    has_critic: bool  # which is trained beside the policy
    shares_prompts: bool  # a prompt is computed once for all its completions
    rollout: Memory
    engine_share: float  # of the memory, reserved by a rollout engine
    engine_ranks: int  # that share an engine
    engine_bytes: int  # of its weights and of keys and values
    engine_sleeps: bool  # gives its memory back during updates

    @property
    def num_prompts(self) -> int:
        """Prompts of those completions: few ranks get whole groups, but many ranks get parts of several groups."""
        per_group = self.train.num_completions
        return ceil(self.num_rows / per_group) if self.num_rows >= per_group else self.num_rows

    @property
    def hidden_bytes(self) -> int:
        """Size of a number in a hidden state, which has the type of the weights; FSDP2 gathers these in bf16."""
        return 2 if self.autocast and self.sharded else self.weight_bytes


def job_of(config: Config, cluster: Cluster) -> Job:
    """Reads the configuration; options declare their needs as class attributes.

    Raises:
        ValueError: if an expectation in `plan` is out of range, or the optimizer refuses its options.
    """
    policy, rollout, precision = config["policy"], config["rollout"], str(config["trainer"]["precision"])
    lora, in_float32 = policy.get("lora"), policy.get("dtype", "float32") == "float32"
    autocast, ranks = precision == "bf16-mixed", cluster.num_accelerators
    sharded = ranks > 1 and option_attribute(config["trainer"]["strategy"], "shards_weights")
    samples_in_float32 = rollout.get("dtype") in (None, "float32")
    is_exact = precision == "32-true" and in_float32 and samples_in_float32 and option_attribute(rollout, "exact_logps")
    needs_reference = option_attribute(config["kl"], "needs_reference")
    held_out, prompts = _largest_evaluation(config["evaluation"]), config["num_prompts_per_step"]
    num_held_out = held_out["num_prompts"] or max(ranks, prompts)  # null: as many as a step trains on, by assumption
    return Job(
        train=_sampled(
            config, config, ceil(prompts / _keep_rate(config) / ranks), config["num_completions_per_prompt"]
        ),
        evaluation=_sampled(config, held_out, ceil(num_held_out / ranks), held_out["num_completions"]),
        num_rows=ceil(completions_per_mini_batch(config) / ranks),
        num_gradient_steps=config["num_gradient_steps"],
        num_epochs=config.get("num_epochs", 1),
        micro_batch_tokens=config["micro_batch_tokens"],
        sharded=sharded,
        replicated=ranks > 1 and not sharded,
        autocast=autocast,
        weight_bytes=4 if in_float32 else 2,
        compute_bytes=2 if autocast or not in_float32 else 4,
        lora_rank=lora["rank"] if lora else None,
        optimizer_states=_optimizer_states(config["optimizer"]),
        fused=bool(config["optimizer"].get("fused")),
        recomputes=bool(config["trainer"].get("activation_checkpointing")),
        offloads=bool(config["trainer"].get("offload_optimizer")),
        num_logp_passes=(not is_exact) + needs_reference,
        marks_tokens=any(option_attribute(config.get(group), "marks") for group in ("clip", "entropy", "loss", "kl")),
        copies_reference=needs_reference and not lora,
        has_critic=option_attribute(config.get("critic"), "gives_values"),
        shares_prompts=policy.get("attention", "auto") == "auto",
        rollout=option_attribute(rollout, "memory", Memory.GENERATE),
        engine_share=rollout.get("gpu_memory_utilization", 0.0),
        engine_ranks=rollout.get("tensor_parallel_size", 1),
        engine_bytes=4 if rollout.get("dtype") == "float32" else 2,
        engine_sleeps=not cluster.accelerator.is_cpu,
    )


def _largest_evaluation(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation with the largest numbers of all held-out sets, whose memory suffices for each of them."""
    every = [evaluation, *(evaluation | given for given in (evaluation.get("sets") or {}).values())]
    largest = {key: max(one[key] for one in every) for key in ("num_completions", "max_new_tokens")}
    return {**evaluation, **largest, "top_p": min(one["top_p"] for one in every)}


def completions_per_mini_batch(config: Config) -> int:
    """Returns the completions of a gradient step on all ranks, which their number must divide."""
    return config["num_prompts_per_step"] // config["num_gradient_steps"] * config["num_completions_per_prompt"]


def _sampled(config: Config, limits: Mapping[str, Any], num_groups: int, num_completions: int) -> Sampled:
    longest = limits["max_new_tokens"]
    return Sampled(
        num_groups=num_groups,
        num_completions=num_completions,
        max_rows=config["rollout"].get("max_rows") or num_groups * num_completions,
        prompt_tokens=prompt_tokens(config),
        max_new_tokens=longest,
        mean_tokens=min(config.get("plan", {}).get("mean_tokens") or longest, longest),
        narrows=limits["top_p"] < 1,
    )


def _keep_rate(config: Config) -> float:
    """The expected share of groups that are trained on."""
    if not option_attribute(config["sampling"], "filters_groups"):
        return 1.0
    expected = config.get("plan", {}).get("keep_rate")
    keep_rate = 0.5 if expected is None else expected
    if not 0 < keep_rate <= 1:
        raise ValueError(f"plan.keep_rate={keep_rate}: a share of the groups must be above 0 and at most 1.")
    return float(keep_rate)


def _optimizer_states(config: Mapping[str, Any]) -> int:
    """Numbers per weight that the optimizer keeps, counted after a step on a small weight."""
    options = {name: value for name, value in config.items() if name not in ("_target_", "_partial_", "fused")}
    weight = torch.nn.Parameter(torch.zeros(64, 64))
    weight.grad = torch.zeros_like(weight)
    try:
        optimizer = resolve_name(config["_target_"])([weight], **options)
    except TypeError as error:
        raise ValueError(f"optimizer: {error}.") from None
    optimizer.step()
    states = [state for state in optimizer.state[weight].values() if isinstance(state, torch.Tensor)]
    return round(sum(state.numel() for state in states) / weight.numel())


def prompt_tokens(config: Config) -> int:
    """Length of a prompt: `plan.prompt_tokens`, else the limit on it, else 512."""
    return int(config.get("plan", {}).get("prompt_tokens") or config["max_prompt_tokens"] or 512)
