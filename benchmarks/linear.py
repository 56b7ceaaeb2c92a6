"""Microseconds of a linear layer with few rows, for each layout of its weight: `python -m benchmarks.linear`.

`plain` is the layout of training; `transposed` and `blocked` are those of `dapo_lightning.rollout.weights`. The layers
take turns, as in a model, so that the weights of the next one are not in the nearest cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.floor import seconds_of
from dapo_lightning.rollout.weights import blocked, transposed
from dapo_lightning.utils.table import table

SHAPES = ((256, 256), (256, 688), (576, 576), (576, 1536), (576, 49152))  # inputs, outputs: tiny policies, and SmolLM2
ROWS = (1, 8, 32, 64)
MEMORY = 2**23  # numbers of all weights of a shape: more than the second cache of a core holds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    rows: list[list[object]] = []
    for dtype in (torch.float32, torch.bfloat16):
        for inputs, outputs in SHAPES:
            weights = [torch.randn(outputs, inputs, dtype=dtype) for _ in range(max(1, MEMORY // (inputs * outputs)))]
            for num_rows in ROWS:
                x = torch.randn(num_rows, inputs, dtype=dtype)
                found = [microseconds(x, [prepare(weight, None) for weight in weights]) for prepare in LAYOUTS.values()]
                rows.append([dtype, f"{inputs} x {outputs}", num_rows, *(f"{value:.0f}" for value in found)])
    print(table(["dtype", "weight", "rows", *LAYOUTS], rows))


def plain(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    return lambda x: F.linear(x, weight, bias)


LAYOUTS = {"plain": plain, "transposed": transposed, "blocked": blocked}


def microseconds(x: Tensor, layers: list[Callable[[Tensor], Tensor]]) -> float:
    def calls() -> None:
        for layer in layers:
            layer(x)

    calls()
    return seconds_of(calls) / len(layers) * 1e6


if __name__ == "__main__":
    main()
