"""Rollouts: tokenised prompts -> completions with their log-probs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from dapo_lightning.types import Completion, Generation


class Rollout(Protocol):
    """Samples G completions for each of P prompts with the current weights of the model.

    `exact_logps`: whether the log-probs recorded in float32 equal those of a forward pass of the model, up to rounding
        in
    the last digits.
    """

    exact_logps: ClassVar[bool]

    def __call__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        noise_PGT: Tensor,
        generation: Generation,
        end_tokens: Sequence[int],
    ) -> Iterator[list[tuple[Completion, ...]]]:
        """P tokenised prompts and their noise in [0, 1) -> the G completions of each prompt, in order.

        Each item of the iterator holds the prompts that were generated together. Nothing is generated before an item is
        requested, so that a caller may stop early.
        """
        ...
