"""Whitening: values get mean 0 and standard deviation 1 over all tokens of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def whitened(values: Tensor, num_tokens: Tensor) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8) over all tokens, with the variance of the population.

    Args:
        num_tokens: how many tokens have each value: the loss mask for values of tokens, the lengths for values of
            completions. Values without tokens do not count.

    Returns:
        The shape of `values`; 0 for values without tokens, and exactly 0 everywhere if all others are equal.
    """
    counts, found_N = num_tokens > 0, values[num_tokens > 0].double()
    if found_N.numel() == 0 or (found_N == found_N[0]).all():
        return torch.zeros_like(values)
    shares_N = num_tokens[counts].to(found_N)
    shares_N = shares_N / shares_N.sum()
    centered_N = found_N - (shares_N * found_N).sum()
    scaled_N = centered_N / ((shares_N * centered_N.square()).sum() + 1e-8).sqrt()
    return torch.zeros_like(values).masked_scatter(counts, scaled_N.to(values.dtype))
