"""Log-probs and entropies of given tokens, computed inside the LM head.

The logits of N tokens, N x vocabulary numbers, are the largest tensor of an update. The head therefore returns the
log-prob and the entropy of each token instead of its logits. It computes them in chunks of tokens, and recomputes them
in the backward pass, so that only the logits of one chunk are in memory at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from dapo_lightning.forward.ways import set_ways, ways_of

CHUNK_LOGITS = 2**25  # logits computed at a time; about 0.6 GB with gradients


def token_statistics(logits_NV: Tensor, ids_N: Tensor, temperature: float, with_entropies: bool) -> Tensor:
    """Log-probs under softmax(logits / temperature) and, if asked for, entropies in nats, in fp32: [N, 1] or [N, 2]."""
    log_p_NV = (logits_NV.float() / temperature if temperature != 1 else logits_NV.float()).log_softmax(dim=1)
    logps_N1 = log_p_NV.gather(1, ids_N[:, None])
    if not with_entropies:
        return logps_N1
    return torch.cat([logps_N1, -(log_p_NV.exp() * log_p_NV).sum(dim=1, keepdim=True)], dim=1)


def try_head(model: PreTrainedModel) -> None:
    """Finds out whether the model returns the output of its LM head unchanged, and stores this in the model's `Ways`.
    Models that scale or cap their logits do not, so the logits of all their tokens are computed at once."""
    head, given, is_last = model.get_output_embeddings(), torch.zeros(1, 1, 1), False

    def instead(hidden: Tensor) -> Tensor:
        return given if hidden.shape[:-1] == (1, 1) else hidden

    tokens = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    with torch.no_grad(), _replaced(head, instead), suppress(Exception):  # models fail in unforeseen ways
        is_last = model(input_ids=tokens, logits_to_keep=1, use_cache=False).logits is given
    set_ways(model, replace(ways_of(model), head_is_last=is_last))


@contextmanager
def head_of_tokens(
    model: PreTrainedModel, mask: Tensor | None, ids_N: Tensor, temperature: float, with_entropies: bool
) -> Iterator[None]:
    """Within the context, the model returns `token_statistics` as its logits, [1, N, 1 or 2], for the N tokens that
    `mask` selects (None: for all). This needs a model whose head is last (`Ways.head_is_last`)."""
    head = model.get_output_embeddings()
    logits_of = head.forward

    def of_chunk(hidden: Tensor, ids_N: Tensor, mask: Tensor | None = None) -> Tensor:
        logits = logits_of(hidden)
        return token_statistics(logits[0] if mask is None else logits[mask], ids_N, temperature, with_entropies)

    def of_tokens(hidden: Tensor) -> Tensor:
        size = max(1, CHUNK_LOGITS // head.weight.shape[0])
        if hidden.shape[:-1].numel() <= size:
            return of_chunk(hidden, ids_N, mask)[None]
        hidden_ND = hidden[0] if mask is None else hidden[mask]
        chunks = zip(hidden_ND.split(size), ids_N.split(size), strict=True)
        return torch.cat([checkpoint(of_chunk, h[None], ids, use_reentrant=False) for h, ids in chunks])[None]

    with _replaced(head, of_tokens):
        yield


@contextmanager
def _replaced(head: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    head.forward = forward
    try:
        yield
    finally:
        del head.forward  # restores the method of the class
