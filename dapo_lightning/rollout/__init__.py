"""Rollouts: tokenised prompts -> completions with their log-probs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import ClassVar, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from dapo_lightning.types import Completion, Generation


class Memory(Enum):
    """The memory that a rollout needs besides the policy; `plan/memory.py` counts it."""

    DECODE = auto()
    """Weights prepared for decoding, and keys and values of each prompt once for all its completions."""
    GENERATE = auto()
    """Hugging Face's cache: the prompt in each row, and a new tensor at each token."""
    ENGINE = auto()
    """An engine's own weights and cache, in a reserved share of the accelerator's memory."""


class Rollout(Protocol):
    """Samples G completions for each of P prompts with the current weights of the model.

    `exact_logps`: whether log-probs recorded in float32 equal those of a forward pass of the model, up to rounding.
    `memory`: optional, the kind of memory it needs; a plan assumes `Memory.GENERATE` if it is missing.
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
