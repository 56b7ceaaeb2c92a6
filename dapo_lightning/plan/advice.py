"""Changes with which a run fits, each verified by assessing the changed run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from math import gcd
from operator import getitem
from typing import Any

from transformers import PreTrainedConfig

from dapo_lightning.distributed.sharding import FSDP2
from dapo_lightning.plan.accelerators import ACCELERATORS, Cluster
from dapo_lightning.plan.assessment import Assessment, assess
from dapo_lightning.plan.job import Config, completions_per_mini_batch, prompt_tokens
from dapo_lightning.rollout.vllm import Vllm
from dapo_lightning.utils.options import target_of

LEAST_NEW_TOKENS = 512  # shorter completions would make it another task
SHARDING = {"trainer.strategy": {"_target_": target_of(FSDP2)}}
MEMORY, ROUNDING, CLUSTER = "memory and speed only", "rounding", "the cluster"


@dataclass(frozen=True)
class Change:
    """An override for the command line."""

    override: str  # as it is written there
    values: Mapping[str, Any]  # the dotted keys that it sets; those of `plan` are fields of the cluster
    affects: str

    @property
    def key(self) -> str:
        return self.override.partition("=")[0]


def advise(
    config: Config,
    model_config: PreTrainedConfig,
    cluster: Cluster,
    may: Callable[[Change], bool] = lambda change: True,
) -> tuple[Change, ...]:
    """Returns changes with which the run fits, each of which is necessary; none if it fits or if nothing helps.

    Tries changes in order of their cost (memory only, then rounding, cluster, evaluation, training) and takes the first
    that reduces what is missing; then it starts over, because a change that was useless before may help now.

    Args:
        may: whether a change may be tried.
    """

    def assessed(changes: Iterable[Change]) -> Assessment:
        return assess_with(changes, config, model_config, cluster)

    taken: dict[str, Change] = {}
    while not (now := assessed(taken.values())).fits:
        for change in filter(may, _options(*_changed(taken.values(), config, cluster))):
            tried = {key: other for key, other in taken.items() if key != change.key} | {change.key: change}
            if _missing(assessed(tried.values())) < _missing(now):
                taken = tried
                break
        else:
            return ()
    for key in list(taken):
        fewer = {other: change for other, change in taken.items() if other != key}
        if assessed(fewer.values()).fits:
            taken = fewer
    return tuple(taken.values())


def assess_with(
    changes: Iterable[Change], config: Config, model_config: PreTrainedConfig, cluster: Cluster
) -> Assessment:
    """Assesses a configuration with the changes applied."""
    config, cluster = _changed(changes, config, cluster)
    return assess(config, model_config, cluster)


def _changed(changes: Iterable[Change], config: Config, cluster: Cluster) -> tuple[Config, Cluster]:
    result: dict[str, Any] = copy.deepcopy(dict(config))
    for key, value in [item for change in changes for item in change.values.items()]:
        *path, last = key.split(".")
        if path == ["plan"]:
            cluster = replace(cluster, **{last: value})
        else:
            reduce(getitem, path, result)[last] = value
    return result, cluster


def _missing(assessment: Assessment) -> tuple[int, float]:
    return len(assessment.obstacles), assessment.excess_bytes


def _options(config: Config, cluster: Cluster) -> Iterator[Change]:
    """Yields possible changes in order of their cost."""
    num_completions, ranks, chip = config["num_completions_per_prompt"], cluster.num_accelerators, cluster.accelerator
    completions = completions_per_mini_batch(config)
    possible_ranks = [number for number in range(1, completions + 1) if completions % number == 0]
    if ranks not in possible_ranks:
        yield _set("plan.num_accelerators", max(n for n in possible_ranks if n < ranks), CLUSTER)
    yield _set("trainer.activation_checkpointing", True, MEMORY)
    for rows in _halves(config["rollout"].get("max_rows", 0), num_completions):
        yield _set("rollout.max_rows", rows, MEMORY)
    for tokens in _halves(config["micro_batch_tokens"], prompt_tokens(config) + config["max_new_tokens"]):
        yield _set("micro_batch_tokens", tokens, MEMORY)
    if not chip.is_cpu:
        yield _set("trainer.offload_optimizer", True, MEMORY)
    if ranks > 1:
        yield Change("trainer=fsdp2", SHARDING, MEMORY)
    if not chip.is_cpu:
        yield _set("trainer.precision", "bf16-mixed", ROUNDING)
    for more in [number for number in possible_ranks if number > ranks]:
        override = f"plan.num_accelerators={more} trainer=fsdp2"  # more ranks help only if they share the weights
        yield Change(override, {"plan.num_accelerators": more, **SHARDING}, CLUSTER)
    for count in _halves(config["evaluation"]["num_completions"], num_completions):
        yield _set("evaluation.num_completions", count, "the evaluation")
    for number in _engine_sizes(cluster):
        for share in (0.4, 0.5, 0.6, 0.7, 0.8):
            settings = {"tensor_parallel_size": number, "gpu_memory_utilization": share}
            overrides = " ".join(f"rollout.{key}={value}" for key, value in settings.items())
            yield Change(f"rollout=vllm {overrides}", {"rollout": {"_target_": target_of(Vllm), **settings}}, ROUNDING)
    for larger in sorted(ACCELERATORS.values(), key=lambda accelerator: accelerator.memory_bytes):
        if larger.memory_bytes > chip.memory_bytes and not larger.is_cpu:
            yield Change(f"plan.accelerator={larger.name}", {"plan.accelerator": larger}, CLUSTER)
    for tokens in _halves(config["max_new_tokens"], LEAST_NEW_TOKENS):
        values = {"max_new_tokens": tokens, "evaluation.max_new_tokens": tokens}
        yield Change(f"max_new_tokens={tokens}", values, "the training")


def _engine_sizes(cluster: Cluster) -> list[int]:
    """Numbers of ranks that may share a rollout engine."""
    if cluster.accelerator.is_cpu:
        return []
    together = gcd(cluster.num_accelerators, cluster.node_size)
    return [number for number in (1, 2, 4, 8) if together % number == 0]


def _set(key: str, value: object, affects: str) -> Change:
    return Change(f"{key}={str(value).lower()}", {key: value}, affects)


def _halves(value: int, least: int) -> Iterator[int]:
    while value > least:
        value = max(least, value // 2)
        yield value
