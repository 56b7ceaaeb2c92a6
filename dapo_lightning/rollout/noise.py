"""Sampling noise keyed by what is sampled, not by when or where.

Every draw has its own random numbers, made from (seed, stream, draw number).  So the completions of a draw
do not depend on the batch it is in, the rank it falls to, or what was sampled before; evaluation cannot
disturb training; and resuming needs no random state at all.
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
        stream: what the draws are for ("train", "validation"): streams are independent of each other.
        numbers: the P draw numbers.
    """
    key = zlib.crc32(stream.encode())
    shape = (num_completions, num_tokens)
    return torch.from_numpy(
        np.stack([np.random.default_rng([seed, key, number]).random(shape, dtype=np.float32) for number in numbers])
    )
