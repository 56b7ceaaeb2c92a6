"""Changes with which a run fits, each verified by planning again with it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedConfig

from dapo_lightning.distributed.sharding import FSDP2
from dapo_lightning.plan.accelerators import ACCELERATORS, Cluster
from dapo_lightning.plan.assessment import Assessment, assess, most_ranks
from dapo_lightning.plan.job import Config, prompt_tokens
from dapo_lightning.rollout.vllm import Vllm
from dapo_lightning.utils.options import target_of

LEAST_NEW_TOKENS = 512  # shorter completions would make it another task
SHARDING = {"trainer.strategy": {"_target_": target_of(FSDP2)}}


@dataclass(frozen=True)
class Change:
    """An override for the command line."""

    override: str  # as it is written there
    values: Mapping[str, Any]  # the dotted keys that it sets; those of `plan` change the cluster
    affects: str  # "memory" only, or also "rounding", "hardware", "evaluation" or "training"

    @property
    def key(self) -> str:
        return self.override.partition("=")[0]


def changed(config: Config, cluster: Cluster, changes: Iterable[Change]) -> tuple[Config, Cluster]:
    """Returns the configuration and the cluster with the changes applied."""
    result: dict[str, Any] = copy.deepcopy(dict(config))
    for key, value in [item for change in changes for item in change.values.items()]:
        if key == "plan.accelerator":
            cluster = replace(cluster, accelerator=ACCELERATORS[value])
        elif key == "plan.num_accelerators":
            cluster = replace(cluster, num_accelerators=value)
        else:
            *path, last = key.split(".")
            node = result
            for name in path:
                node = node[name]
            node[last] = value
    return result, cluster


def advise(config: Config, model_config: PreTrainedConfig, cluster: Cluster) -> tuple[Change, ...]:
    """Returns changes with which the run fits, none of which can be left out; none if it fits or if nothing helps.

    Tries changes in order of their cost (memory only, then rounding, hardware, evaluation, training) and takes the
    first that reduces what is missing; then it starts over, since a change that was useless before may help now.
    """

    def assess_with(changes: Iterable[Change]) -> Assessment:
        changed_config, changed_cluster = changed(config, cluster, changes)
        return assess(changed_config, model_config, changed_cluster)

    taken: dict[str, Change] = {}
    while not (now := assess_with(taken.values())).fits:
        for change in _options(*changed(config, cluster, taken.values())):
            tried = {key: other for key, other in taken.items() if key != change.key} | {change.key: change}
            if _missing(assess_with(tried.values())) < _missing(now):
                taken = tried
                break
        else:
            return ()
    for key in list(taken):
        fewer = {other: change for other, change in taken.items() if other != key}
        if assess_with(fewer.values()).fits:
            taken = fewer
    return tuple(taken.values())


def _missing(assessment: Assessment) -> tuple[int, float]:
    return len(assessment.obstacles), assessment.excess_bytes


def _options(config: Config, cluster: Cluster) -> Iterator[Change]:
    """Yields possible changes in order of their cost."""
    num_completions, ranks, chip = config["num_completions_per_prompt"], cluster.num_accelerators, cluster.accelerator
    can_shard = can_use_engine = not config["policy"].get("lora")
    possible_ranks = [number for number in range(1, most_ranks(config) + 1) if most_ranks(config) % number == 0]
    if ranks not in possible_ranks:
        yield _set("plan.num_accelerators", max(n for n in possible_ranks if n < ranks), "hardware")
    if "gradient_checkpointing" in config["policy"]:
        yield _set("policy.gradient_checkpointing", True, "memory")
    for rows in _halves(config["rollout"].get("max_rows", 0), num_completions):
        yield _set("rollout.max_rows", rows, "memory")
    for tokens in _halves(config["micro_batch_tokens"], prompt_tokens(config) + config["max_new_tokens"]):
        yield _set("micro_batch_tokens", tokens, "memory")
    if can_shard and ranks > 1:
        yield Change("trainer=fsdp2", SHARDING, "memory")
    if not chip.is_cpu:
        yield _set("trainer.precision", "bf16-mixed", "rounding")
    for more in [number for number in possible_ranks if number > ranks and can_shard]:
        override = f"plan.num_accelerators={more} trainer=fsdp2"  # more ranks help only if they share the weights
        yield Change(override, {"plan.num_accelerators": more, **SHARDING}, "hardware")
    for count in _halves(config["evaluation"]["num_completions"], num_completions):
        yield _set("evaluation.num_completions", count, "evaluation")
    for share in (0.3, 0.35, 0.4, 0.45, 0.5) if can_use_engine and not chip.is_cpu else ():
        engine = {"rollout": {"_target_": target_of(Vllm), "gpu_memory_utilization": share}}
        yield Change(f"rollout=vllm rollout.gpu_memory_utilization={share}", engine, "rounding")
    for larger in sorted(ACCELERATORS.values(), key=lambda accelerator: accelerator.memory_bytes):
        if larger.memory_bytes > chip.memory_bytes and not larger.is_cpu:
            yield _set("plan.accelerator", larger.name, "hardware")
    for tokens in _halves(config["max_new_tokens"], LEAST_NEW_TOKENS):
        values = {"max_new_tokens": tokens, "evaluation.max_new_tokens": tokens}
        yield Change(f"max_new_tokens={tokens}", values, "training")


def _set(key: str, value: Any, affects: str) -> Change:
    return Change(f"{key}={str(value).lower() if isinstance(value, bool) else value}", {key: value}, affects)


def _halves(value: int, least: int) -> Iterator[int]:
    while value > least:
        value = max(least, value // 2)
        yield value
