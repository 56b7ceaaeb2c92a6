"""Sampling noise that depends on the prompt's number, not on when or where it is sampled.

Each numbered prompt has random numbers of its own, generated from (seed, stream, number). Its completions therefore do
not depend on the batch, on the rank, or on what was sampled before; evaluation cannot disturb training; and resuming
needs no random state.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def uniform_noise(seed: int, stream: str, numbers: Sequence[int], num_completions: int, num_tokens: int) -> Tensor:
    """One number in [0, 1) for each token that may be sampled, [P, G, T].

    Args:
        stream: the purpose of the prompts ("train", "validation"); streams are independent of each other.
        numbers: the numbers of the P prompts.
    """
    key = zlib.crc32(stream.encode())
    shape = (num_completions, num_tokens)
    return torch.from_numpy(
        np.stack([np.random.default_rng([seed, key, number]).random(shape, dtype=np.float32) for number in numbers])
    )
