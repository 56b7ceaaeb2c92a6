"""Peak figures of accelerators (memory, operations and bytes per second), and clusters made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Accelerator:
    """Peak figures of one accelerator. No run attains them all the time; half of the peak rates is a good result."""

    name: str
    memory_bytes: float  # its own (for a CPU: the machine's)
    bf16_flops: float  # per second, in dense matrix products
    fp32_flops: float  # the same without TF32, which torch disables by default
    bandwidth: float  # bytes per second read from its memory
    link_bandwidth: float  # bytes per second to the other accelerators of its node, in each direction
    is_cpu: bool = False  # decodes with a second, rearranged copy of the weights (`rollout/weights.py`)


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
"""From the datasheets of NVIDIA (L40S, A100 80GB SXM, H100 SXM, H200 SXM, DGX B200; half of any figure that is stated
with sparsity or for both directions of NVLink; the L40S has PCIe 4.0 x16) and of AMD (Instinct MI300X), taken from
tables compiled from them: override a figure that matters to you. The laptop is an assumption, not a product."""


@dataclass(frozen=True)
class Cluster:
    """Equal accelerators in equal nodes.

    Raises:
        ValueError: if a number is out of range.
    """

    accelerator: Accelerator
    num_accelerators: int = 1  # with one rank on each
    node_size: int = 8  # accelerators that communicate at `link_bandwidth`
    network_bandwidth: float = 50e9  # bytes per second and accelerator between nodes, each way: 400 Gbit/s
    usable_share: float = 0.92  # of the memory; the driver, libraries and fragmentation take the rest: an assumption

    def __post_init__(self) -> None:
        if self.num_accelerators < 1 or self.node_size < 1:
            raise ValueError(
                f"plan.num_accelerators={self.num_accelerators} and plan.node_size={self.node_size} must be at least 1."
            )
        if not 0 < self.usable_share <= 1:
            raise ValueError(f"plan.usable_share={self.usable_share} must be above 0 and at most 1.")

    @property
    def usable_bytes(self) -> float:
        """Usable memory of each accelerator."""
        return self.usable_share * self.accelerator.memory_bytes

    @property
    def exchange_bandwidth(self) -> float:
        """Bytes per second at which each rank can receive what all others hold. The accelerators of a node share one
        copy of it, which arrives over the network and is passed on over their links."""
        within = self.accelerator.link_bandwidth
        is_one_node = self.num_accelerators <= self.node_size
        return within if is_one_node else min(within, self.node_size * self.network_bandwidth)


EXPECTATIONS = ("mean_tokens", "prompt_tokens", "keep_rate")  # keys of `plan` that do not describe the cluster


def cluster_of(config: Mapping[str, Any]) -> Cluster:
    """Returns the cluster that a configuration names.

    Args:
        config: its group `plan` holds the name of an `accelerator` and, to override the datasheet, any field of
            `Accelerator` and `Cluster`; None counts as absent. `num_accelerators` defaults to the number of devices
            that the trainer asks for, or to one if the trainer takes all that it finds.

    Raises:
        ValueError: for unknown keys and accelerators, and for numbers out of range.
    """
    given = {name: value for name, value in config.get("plan", {}).items() if value is not None}
    of_chip, of_cluster = ({field.name for field in fields(kind)} for kind in (Accelerator, Cluster))
    known = {*EXPECTATIONS, *of_chip, *of_cluster}
    for key in given.keys() - known:
        raise ValueError(f"plan.{key}: there is no such key. Choose from {', '.join(sorted(known))}.")
    devices, num_nodes = config["trainer"]["devices"], config["trainer"]["num_nodes"]
    num_ranks = devices * num_nodes if isinstance(devices, int) and devices > 0 else 1
    chip = given.get("accelerator", "h100-sxm")
    if chip not in ACCELERATORS:
        raise ValueError(f"plan.accelerator={chip}: choose one of {', '.join(ACCELERATORS)}.")
    accelerator = replace(ACCELERATORS[chip], **{name: given[name] for name in given.keys() & of_chip})
    overridden = {name: given[name] for name in given.keys() & of_cluster}
    return Cluster(**{"num_accelerators": num_ranks, **overridden, "accelerator": accelerator})
