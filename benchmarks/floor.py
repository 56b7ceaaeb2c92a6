"""What a machine can do at best, and what a step needs at least: `python -m benchmarks.floor` prints the former.

A share of the floor says how far code is from the machine, not from other code.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

Lengths = Sequence[tuple[int, Sequence[int]]]
"""Of each group: tokens of the prompt, and of each completion."""


@dataclass(frozen=True)
class Machine:
    """Measured peaks: float32 matrix products, and reading memory."""

    flops: float
    bytes_per_second: float


def measure() -> Machine:
    """The best of a few tries, with as many threads as torch uses."""
    a, out = torch.randn(4096, 4096), torch.empty(4096, 4096)
    memory = torch.randn(2**26)
    return Machine(
        2 * 4096**3 / seconds_of(lambda: torch.mm(a, a, out=out)),
        4 * memory.numel() / seconds_of(lambda: memory.sum()),
    )


def seconds_of(work: Callable[[], object], tries: int = 10) -> float:
    """The median of a few tries."""
    seconds = []
    for _ in range(tries):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@dataclass(frozen=True)
class Work:
    """Operations and bytes that no implementation gets around, for a step's completions: every prompt once, no padding.

    Args:
        body: weights of all linear layers but the LM head.
        head: weights of the LM head.
        attention: query heads times numbers per head, over all layers.
        cache: bytes of keys and values per token, over all layers.
    """

    body: int
    head: int
    attention: int
    cache: int

    @staticmethod
    def of(model: PreTrainedModel) -> Work:
        config, head = model.config, model.get_output_embeddings().weight.numel()
        linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear | Conv1D))
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        key_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        return Work(
            body=linear - head,
            head=head,
            attention=config.num_hidden_layers * config.num_attention_heads * size,
            cache=config.num_hidden_layers * key_heads * size * 2 * 4,
        )

    def forward_flops(self, lengths: Lengths) -> float:
        """Two operations per weight and token, four per number of a head and pair of tokens that see each other.

        Forward and backward together are three times that.
        """
        fed = sum(prompt + sum(own) - len(own) for prompt, own in lengths)
        predicted = sum(sum(own) for _, own in lengths)
        pairs = sum(
            prompt * (prompt + 1) / 2 + sum((n - 1) * prompt + (n - 1) * n / 2 for n in own) for prompt, own in lengths
        )
        return 2 * self.body * fed + 2 * self.head * predicted + 4 * self.attention * pairs

    def generate_bytes(self, lengths: Lengths) -> float:
        """Reading, at each token: the weights once, each prompt's cache once, each row's own once."""
        num_steps = max(n for _, own in lengths for n in own)
        cached = sum(prompt * max(own) + sum(n * n / 2 for n in own) for prompt, own in lengths)
        return 4 * (self.body + self.head) * num_steps + self.cache * cached


def main() -> None:
    machine = measure()
    print(
        f"{torch.get_num_threads()} threads: {machine.flops / 1e9:.0f} GFLOP/s in float32 matrix products, "
        f"{machine.bytes_per_second / 1e9:.0f} GB/s read"
    )


if __name__ == "__main__":
    main()
