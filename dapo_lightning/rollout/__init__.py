"""Prompts -> completions with their log-probs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from dapo_lightning.types import Completion, Generation


class Rollout(Protocol):
    """Samples G completions for each of P prompts from the model as it is now.

    `exact_logps`: whether the log-probs recorded in float32 are those of a forward pass of the model, but for rounding
    in the last places.
    """

    exact_logps: ClassVar[bool]

    def __call__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        noise_PGT: Tensor,
        generation: Generation,
        end_tokens: Sequence[int],
    ) -> Iterator[tuple[Completion, ...]]:
        """P tokenised prompts and their noise in [0, 1) -> the G completions of each prompt, in order, as they are
        ready. Prompts are read when their turn comes: those read are generated, those not yet read may never be."""
        ...
