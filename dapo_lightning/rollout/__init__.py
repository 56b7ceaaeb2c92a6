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


class Partner(Protocol):
    """The other side of the conversations in which completions of several turns are sampled.

    `max_turn_tokens`: how many tokens the policy may write in one turn.
    `max_message_tokens`: how many tokens a message may have.
    `max_messages`: how many messages a conversation may have.
    """

    max_turn_tokens: int
    max_message_tokens: int
    max_messages: int

    def reply(self, rows: Sequence[int], turns: Sequence[Tensor]) -> list[tuple[int, ...] | None]:
        """Takes turns that the policy has just ended with an end token, and returns for each the tokens of the message
        that the policy reads next, at least one, or None if the conversation is over.

        Args:
            rows: the row of each turn; row p * G + g is completion g of prompt p.
            turns: the tokens of each turn, [T], including the end token.
        """
        ...


class Rollout(Protocol):
    """Samples G completions for each of P prompts with the current weights of the model.

    `exact_logps`: whether log-probs recorded in float32 equal those of a forward pass of the model, up to rounding.
    `memory`: optional, the kind of memory it needs; a plan assumes `Memory.GENERATE` if it is missing.
    `converses`: optional, whether `__call__` takes a `Partner` as a sixth argument and samples all turns of its
        conversations. Other rollouts are called again for each turn, with the conversation so far as the prompt
        (`rollout.turns`).
    `takes_budgets`: optional, whether the noise may also be a list of P tensors [G, T], each with its own T. Otherwise
        a turn takes several calls if the longest conversation does not have room for the largest budget.
    `ready`: optional, a method that takes the model and returns the context in which `__call__` may be used. All ranks
        enter and leave it together, and weights do not change within it; `gathered` is used if it is missing.
    `leave`: optional, a method that a rank calls once it needs nothing more for the prompts of a round. An engine that
        several ranks share generates for the others until they, too, have called it.
    `check_reach`: optional, a method that is called once with the number of tokens that the longest prompt and its
        completion may have, and raises ValueError if they do not fit.
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
