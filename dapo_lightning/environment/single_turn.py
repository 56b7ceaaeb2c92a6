"""One turn: the policy reads the prompt, and its completion is graded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from dapo_lightning.environment import Dialogue
from dapo_lightning.policy.codec import Codec
from dapo_lightning.types import Grade


@dataclass(frozen=True)
class SingleTurn:
    """Never replies."""

    num_turns: ClassVar[int] = 1
    max_turn_tokens: ClassVar[int | None] = None
    max_message_tokens: ClassVar[int] = 0
    grades_turns: ClassVar[bool] = True

    def start(self, codec: Codec) -> None:
        """There is nothing to prepare."""

    def reply(self, dialogues: Sequence[Dialogue]) -> list[str | None]:
        """The conversation is over."""
        return [None for _ in dialogues]

    def final(self, grades: Sequence[Grade]) -> Grade:
        """The grade of the only turn."""
        return grades[-1]
