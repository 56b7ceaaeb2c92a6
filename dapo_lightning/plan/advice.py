"""What to change so that a run fits, each change verified by planning again with it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from transformers import PreTrainedConfig

from dapo_lightning.plan.accelerators import ACCELERATORS, Cluster
from dapo_lightning.plan.assessment import Assessment, assess, most_ranks
from dapo_lightning.plan.job import Config, prompt_tokens


@dataclass(frozen=True)
class Change:
    """An override to give on the command line.

    Args:
        override: as it is written there.
        values: the keys that it sets, dotted; those of `plan` set the cluster.
        affects: what else it changes: "memory" alone, "rounding", "hardware", "evaluation", or "training".
    """

    override: str
    values: Mapping[str, Any]
    affects: str

    @property
    def key(self) -> str:
        return self.override.partition("=")[0]


def changed(config: Config, cluster: Cluster, changes: Iterable[Change]) -> tuple[Config, Cluster]:
    """The configuration and the cluster with the changes made."""
    result: dict[str, Any] = copy.deepcopy(dict(config))
    for change in changes:
        for key, value in change.values.items():
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
    """The changes with which the run fits, none of which can be left out; none if it fits, or if nothing helps.

    Takes what costs least first (memory only, then rounding, hardware, evaluation, training), if less is missing with
    it than without, and begins anew: what was of no use before may be now.
    """

    def with_(changes: Iterable[Change]) -> Assessment:
        changed_config, changed_cluster = changed(config, cluster, changes)
        return assess(changed_config, model_config, changed_cluster)

    taken: dict[str, Change] = {}
    while not (now := with_(taken.values())).fits:
        for change in _options(*changed(config, cluster, taken.values())):
            tried = {key: other for key, other in taken.items() if key != change.key} | {change.key: change}
            if _lacks(with_(tried.values())) < _lacks(now):
                taken = tried
                break
        else:
            return ()
    for key in list(taken):
        fewer = {other: change for other, change in taken.items() if other != key}
        if with_(fewer.values()).fits:
            taken = fewer
    return tuple(taken.values())


def _lacks(assessment: Assessment) -> tuple[int, float]:
    return len(assessment.obstacles), assessment.excess_bytes


def _set(key: str, value: Any, affects: str) -> Change:
    return Change(f"{key}={str(value).lower() if isinstance(value, bool) else value}", {key: value}, affects)


def _halves(value: int, least: int) -> Iterator[int]:
    while value > least:
        value = max(least, value // 2)
        yield value


def _checkpointing(config: Config, cluster: Cluster) -> Iterator[Change]:
    if "gradient_checkpointing" in config["policy"]:
        yield _set("policy.gradient_checkpointing", True, "memory")


def _max_rows(config: Config, cluster: Cluster) -> Iterator[Change]:
    for rows in _halves(config["rollout"].get("max_rows", 0), config["num_completions_per_prompt"]):
        yield _set("rollout.max_rows", rows, "memory")


def _micro_batch(config: Config, cluster: Cluster) -> Iterator[Change]:
    one_row = prompt_tokens(config) + config["max_new_tokens"]
    for tokens in _halves(config["micro_batch_tokens"], one_row):
        yield _set("micro_batch_tokens", tokens, "memory")


def _shard(config: Config, cluster: Cluster) -> Iterator[Change]:
    if cluster.num_accelerators > 1 and not config["policy"].get("lora"):
        yield FSDP2


def _fewer_ranks(config: Config, cluster: Cluster) -> Iterator[Change]:
    most = most_ranks(config)
    ranks = [n for n in range(1, min(most, cluster.num_accelerators) + 1) if most % n == 0]
    if cluster.num_accelerators not in ranks:
        yield _set("plan.num_accelerators", ranks[-1], "hardware")


def _more_ranks(config: Config, cluster: Cluster) -> Iterator[Change]:
    """Sharding over more: with one rank so far, sharding is part of it."""
    most = most_ranks(config)
    for ranks in range(cluster.num_accelerators + 1, most + 1):
        if most % ranks == 0 and not config["policy"].get("lora"):
            values = {"plan.num_accelerators": ranks, **FSDP2.values}
            yield Change(f"plan.num_accelerators={ranks} trainer=fsdp2", values, "hardware")


def _bf16(config: Config, cluster: Cluster) -> Iterator[Change]:
    if not cluster.accelerator.is_cpu:
        yield _set("trainer.precision", "bf16-mixed", "rounding")


def _evaluation(config: Config, cluster: Cluster) -> Iterator[Change]:
    for count in _halves(config["evaluation"]["num_completions"], config["num_completions_per_prompt"]):
        yield _set("evaluation.num_completions", count, "evaluation")


def _vllm(config: Config, cluster: Cluster) -> Iterator[Change]:
    if cluster.accelerator.is_cpu or config["policy"].get("lora"):
        return
    for share in (0.3, 0.35, 0.4, 0.45, 0.5):
        group = {"_target_": "dapo_lightning.rollout.vllm.Vllm", "gpu_memory_utilization": share}
        yield Change(f"rollout=vllm rollout.gpu_memory_utilization={share}", {"rollout": group}, "rounding")


def _larger_accelerator(config: Config, cluster: Cluster) -> Iterator[Change]:
    for larger in sorted(ACCELERATORS.values(), key=lambda accelerator: accelerator.memory_bytes):
        if larger.memory_bytes > cluster.accelerator.memory_bytes and not larger.is_cpu:
            yield _set("plan.accelerator", larger.name, "hardware")


def _shorter(config: Config, cluster: Cluster) -> Iterator[Change]:
    for tokens in _halves(config["max_new_tokens"], LEAST_NEW_TOKENS):
        values = {"max_new_tokens": tokens, "evaluation.max_new_tokens": tokens}
        yield Change(f"max_new_tokens={tokens}", values, "training")


LEAST_NEW_TOKENS = 512  # with fewer it is another task
FSDP2 = Change(
    "trainer=fsdp2", {"trainer.strategy": {"_target_": "dapo_lightning.distributed.sharding.FSDP2"}}, "memory"
)
_OPTIONS: tuple[Callable[[Config, Cluster], Iterator[Change]], ...] = (
    _fewer_ranks, _checkpointing, _max_rows, _micro_batch, _shard, _bf16, _more_ranks, _evaluation, _vllm,
    _larger_accelerator, _shorter,
)  # fmt: skip


def _options(config: Config, cluster: Cluster) -> Iterator[Change]:
    """What costs least first."""
    return chain.from_iterable(options(config, cluster) for options in _OPTIONS)
