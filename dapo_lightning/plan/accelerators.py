"""What accelerators are made for: memory, operations and bytes per second, from their makers' datasheets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Accelerator:
    """Peaks of one accelerator. A floor made of peaks is never reached: half of it is good.

    Args:
        memory_bytes: of its own memory (of a CPU: of the machine).
        bf16_flops, fp32_flops: dense matrix products, operations per second; without sparsity, and fp32 without TF32,
            which torch leaves off.
        bandwidth: bytes per second read from its memory.
        link_bandwidth: bytes per second that it sends to the others of its node, while it receives as many.
        is_cpu: whether linear layers are decoded with a second, rearranged copy of their weights
            (`dapo_lightning.rollout.weights`).
    """

    name: str
    memory_bytes: float
    bf16_flops: float
    fp32_flops: float
    bandwidth: float
    link_bandwidth: float
    is_cpu: bool = False


ACCELERATORS = {
    accelerator.name: accelerator
    for accelerator in (
        Accelerator("l40s", 48e9, 362e12, 91.6e12, 864e9, 32e9),
        Accelerator("a100-80gb", 80e9, 312e12, 19.5e12, 2.039e12, 300e9),
        Accelerator("h100-sxm", 80e9, 989e12, 67e12, 3.35e12, 450e9),
        Accelerator("h200", 141e9, 989e12, 67e12, 4.8e12, 450e9),
        Accelerator("b200", 180e9, 2.25e15, 75e12, 8e12, 900e9),
        Accelerator("mi300x", 192e9, 1307e12, 163e12, 5.3e12, 448e9),
        Accelerator("laptop", 16e9, 0.2e12, 0.2e12, 40e9, 10e9, is_cpu=True),
    )
}
"""NVIDIA: L40S, A100 80GB SXM, H100 SXM, H200 SXM and DGX B200 datasheets, the dense half of what is given with
sparsity; NVLink is given both ways together, so half of it, and the L40S has PCIe 4.0 x16. AMD: Instinct MI300X
datasheet. The pages themselves were not at hand, only tables made from them: override what matters to you. The laptop
is an assumption, not a product."""


@dataclass(frozen=True)
class Cluster:
    """Equal accelerators in equal nodes.

    Args:
        num_accelerators: one rank on each.
        node_size: accelerators of a node, which talk at `link_bandwidth`.
        network_bandwidth: bytes per second and accelerator between nodes, each way (400 Gbit/s).
        usable_share: of the memory; the rest is for the driver's context, libraries and fragmentation. An assumption.

    Raises:
        ValueError: for values without meaning.
    """

    accelerator: Accelerator
    num_accelerators: int = 1
    node_size: int = 8
    network_bandwidth: float = 50e9
    usable_share: float = 0.92

    def __post_init__(self) -> None:
        if self.num_accelerators < 1 or self.node_size < 1:
            raise ValueError(
                f"plan: {self.num_accelerators} accelerators in nodes of {self.node_size}: at least 1 of each."
            )
        if not 0 < self.usable_share <= 1:
            raise ValueError(f"plan: usable_share={self.usable_share} must lie above 0 and at most at 1.")

    @property
    def usable_bytes(self) -> float:
        """Of each accelerator's memory."""
        return self.usable_share * self.accelerator.memory_bytes

    @property
    def exchange_bandwidth(self) -> float:
        """Bytes per second at which each rank can receive what all others hold: what a node receives is for all its
        accelerators, so they share one copy of it over the network and pass it on over their links."""
        within = self.accelerator.link_bandwidth
        return (
            within if self.num_accelerators <= self.node_size else min(within, self.node_size * self.network_bandwidth)
        )


EXPECTED = ("accelerator", "mean_tokens", "prompt_tokens", "keep_rate")  # keys of `plan` that are no fields


def cluster_of(config: Mapping[str, Any]) -> Cluster:
    """The cluster that a configuration names.

    Args:
        config: its group `plan` holds the name of an `accelerator`, and any field of `Accelerator` and `Cluster` by its
            own name, which overrides what is on the datasheet; None is as if it were not there. Without
            `num_accelerators` there are as many as the trainer asks for, or one, if it takes what it finds.

    Raises:
        ValueError: for unknown keys and accelerators, and for values without meaning.
    """
    given = {name: value for name, value in config.get("plan", {}).items() if value is not None}
    chip = accelerator(given.get("accelerator", "h100-sxm"))
    of_chip, of_cluster = _given(Accelerator, given), _given(Cluster, given)
    unknown = set(given) - set(of_chip) - set(of_cluster) - set(EXPECTED)
    if unknown:
        raise ValueError(f"plan.{min(unknown)}: there is no such key.")
    devices, num_nodes = config["trainer"]["devices"], config["trainer"]["num_nodes"]
    asked_for = devices * num_nodes if isinstance(devices, int) and devices > 0 else 1
    return Cluster(replace(chip, **of_chip), **{"num_accelerators": asked_for} | of_cluster)


def _given(kind: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)} - {"accelerator"}
    return {name: value for name, value in given.items() if name in names}


def accelerator(name: str) -> Accelerator:
    """Raises:
    ValueError: naming those that are known.
    """
    if name not in ACCELERATORS:
        raise ValueError(f"plan.accelerator={name}: choose one of {', '.join(ACCELERATORS)}.")
    return ACCELERATORS[name]
