"""Logits -> one token per row, its log-prob, and the entropy of the policy at that position."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_tokens(
    logits_BV: Tensor, noise_B: Tensor, temperature: float, top_p: float, top_k: int | None = None, min_p: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse-CDF sampling from softmax(logits / temperature), restricted by top_p, top_k and min_p (see `Generation`).

    Temperature 0 takes the most probable token; log-probs and entropies are then those at temperature 1.

    Returns:
        tokens_B, logps_B and entropies_B in fp32; log-prob and entropy are those of the unrestricted policy. Where
        logits are not finite (-inf is allowed), some token is returned, and its log-prob is NaN.
    """
    logits_BV = logits_BV.float() if temperature in (0, 1) else logits_BV.float() / temperature
    logps_BV = logits_BV.log_softmax(dim=1)
    probabilities_BV = logps_BV.exp()
    entropies_B = -(probabilities_BV * logps_BV).nan_to_num_(0.0).sum(dim=1)
    if temperature == 0:
        greedy_logps_B, greedy_B = logps_BV.max(dim=1)
        return greedy_B, greedy_logps_B, entropies_B
    drawn_BV = _most_probable(probabilities_BV, top_k, min_p)
    drawn_BV = _nucleus(drawn_BV, top_p) if top_p < 1 else drawn_BV
    cumulative_BV = drawn_BV.cumsum(dim=1)
    total_B1 = cumulative_BV[:, -1:].contiguous()
    tokens_B1 = torch.searchsorted(cumulative_BV, noise_B[:, None] * total_B1, right=True)
    # Rounding may raise noise * total to total itself: then the last token with any probability is drawn.
    tokens_B1 = torch.minimum(tokens_B1, torch.searchsorted(cumulative_BV, total_B1))
    tokens_B1 = tokens_B1.clamp_(max=logits_BV.shape[1] - 1)  # the index is past the end if the sum is NaN
    return tokens_B1.squeeze(1), logps_BV.gather(1, tokens_B1).squeeze(1), entropies_B


def _most_probable(probabilities_BV: Tensor, top_k: int | None, min_p: float) -> Tensor:
    """Sets probabilities to 0 that top_k and min_p exclude, and scales the others to a sum of 1. Ties at the k-th
    place are all kept."""
    if top_k is None and min_p == 0:
        return probabilities_BV
    kept_BV = probabilities_BV.where(probabilities_BV >= min_p * probabilities_BV.amax(dim=1, keepdim=True), 0.0)
    if top_k is not None and top_k < kept_BV.shape[1]:
        kept_BV = kept_BV.where(kept_BV >= kept_BV.topk(top_k, dim=1).values[:, -1:], 0.0)
    return kept_BV / kept_BV.sum(dim=1, keepdim=True)


def _nucleus(probabilities_BV: Tensor, top_p: float) -> Tensor:
    """Sets all probabilities to 0 except the largest ones: the smallest set whose sum reaches top_p."""
    sorted_BV, order_BV = probabilities_BV.sort(dim=1, descending=True)
    before_BV = sorted_BV.cumsum(dim=1) - sorted_BV
    return probabilities_BV.scatter(1, order_BV, sorted_BV.where(before_BV < top_p, 0.0))
