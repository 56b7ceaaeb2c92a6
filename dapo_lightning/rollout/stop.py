"""Stop texts: a turn also ends when the policy has written one of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StopStringCriteria

from dapo_lightning.types import Generation


class StopTexts:
    """Recognises turns that end with one of these texts, or within a token that completes one of them.

    Args:
        texts: the stop texts; they remain part of the completion.

    Raises:
        ValueError: naming the key, if there is an empty text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]):
        if not all(texts):
            raise ValueError(f"stop={list(texts)}: an empty text would end every completion at once.")
        self._criteria = StopStringCriteria(tokenizer, list(texts))

    def __call__(self, tokens_BT: Tensor) -> Tensor:
        """Which rows have just completed a stop text, [B] bool."""
        return self._criteria(tokens_BT, None)


def ends_at(tokens_T: Tensor, end_tokens: Sequence[int], generation: Generation) -> tuple[int, bool]:
    """Returns how many tokens belong to a turn, up to and with its end token or stop text, and whether it has ended."""
    is_end_T = torch.isin(tokens_T, torch.tensor(list(end_tokens)))
    if generation.stop is not None:
        prefixes = (tokens_T[None, : n + 1] for n in range(len(tokens_T)))
        is_end_T |= torch.cat([generation.stop(prefix) for prefix in prefixes])
    ends = is_end_T.nonzero()
    return (int(ends[0]) + 1, True) if len(ends) else (len(tokens_T), False)
