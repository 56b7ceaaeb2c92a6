"""Prompts -> completions with their log-probs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel

from dapo_lightning.types import Completion, Generation


class Rollout(Protocol):
    """Samples G completions for each of P prompts from the model as it is now."""

    def __call__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        noise_PGT: Tensor,
        generation: Generation,
        end_tokens: Sequence[int],
    ) -> Iterator[tuple[Completion, ...]]:
        """P tokenised prompts and their noise in [0, 1) -> the G completions of each prompt, in order, as they are
        ready."""
        ...
