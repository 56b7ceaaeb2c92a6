"""Environments, which reply to the turns of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dapo_lightning.policy.codec import Codec
from dapo_lightning.types import Grade, Prompt


class ReplyError(RuntimeError):
    """An environment cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class Dialogue:
    """A conversation after a turn of the policy.

    Args:
        turns: what the policy wrote in each turn, without end tokens.
        messages: what the environment replied to all turns but the last.
        grades: the grade of each turn; empty if the environment does not grade turns.
    """

    prompt: Prompt
    turns: tuple[str, ...]
    messages: tuple[str, ...]
    grades: tuple[Grade, ...] = ()

    def transcript(self) -> str:
        """Turns and messages in their order, each on a new line."""
        replies = (*self.messages, "")
        return "\n".join(text for pair in zip(self.turns, replies, strict=False) for text in pair).removesuffix("\n")


class Environment(Protocol):
    """Replies to the turns of the policy, and combines the grades of its turns into one.

    `num_turns`: how many turns the policy may have.
    `max_turn_tokens`: how many tokens the policy may write in a turn; None: as many as in all turns together.
    `max_message_tokens`: how many tokens a message may have, with those of the chat template around it.
    `grades_turns`: whether the reward grades the answer in each turn; otherwise it grades the transcript at the end.
    """

    @property
    def num_turns(self) -> int: ...
    @property
    def max_turn_tokens(self) -> int | None: ...
    @property
    def max_message_tokens(self) -> int: ...
    @property
    def grades_turns(self) -> bool: ...

    def start(self, codec: Codec) -> None:
        """Prepares everything, so that mistakes in the configuration are found before the run begins.

        Raises:
            ValueError: naming the key and the remedy.
        """
        ...

    def reply(self, dialogues: Sequence[Dialogue]) -> Sequence[str | None]:
        """Returns the next message of each conversation, or None if it is over. Last turns get no reply."""
        ...

    def final(self, grades: Sequence[Grade]) -> Grade:
        """Returns the grade of a trajectory, given those of its turns (or the grade of its transcript)."""
        ...


def check_budgets(num_turns: int, max_turn_tokens: int | None, max_message_tokens: int) -> None:
    """Raises ValueError, naming the key, if a number of an environment has no meaning."""
    if num_turns < 2:
        raise ValueError(
            f"environment.num_turns={num_turns}: must be at least 2; environment=single_turn is the environment of one "
            "turn."
        )
    if max_turn_tokens is not None and max_turn_tokens < 1:
        raise ValueError(f"environment.max_turn_tokens={max_turn_tokens}: must be at least 1, or null.")
    if max_message_tokens < 1:
        raise ValueError(f"environment.max_message_tokens={max_message_tokens}: must be at least 1.")
