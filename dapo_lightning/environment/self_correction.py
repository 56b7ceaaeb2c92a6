"""Self-correction: after an answer, a message says whether it is right, or asks for a check, and a turn follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from dapo_lightning.environment import Dialogue, check_budgets
from dapo_lightning.policy.codec import Codec
from dapo_lightning.types import Grade


@dataclass(frozen=True)
class SelfCorrection:
    """Replies to each answer according to its grade. The reward of a trajectory is that of its last answer.

    With the same text for `wrong` and `right`, the policy does not learn the verdict and has to check its answer itself
    (intrinsic self-correction; Kumar et al. 2024, arXiv 2409.12917).

    Args:
        num_turns: how many answers the policy may give.
        wrong: the message after a wrong answer. `{answer}` stands for the answer that the reward has read, `{detail}`
            for what failed according to the reward; both are empty if the reward does not know.
        right: the message after a right answer, with the same placeholders; None: it ends the conversation.
        max_turn_tokens, max_message_tokens: see `Environment`.
        discount: a positive score is multiplied by this for each turn after the first, so that it is better to be right
            at once. Other scores are not, because another turn must not make a wrong answer cheaper.
        spoilt: subtracted from the score for each turn that changes a right answer into a wrong one.

    Raises:
        ValueError: naming the key, if a number has no meaning.
    """

    num_turns: int
    wrong: str
    right: str | None
    max_turn_tokens: int | None
    max_message_tokens: int
    discount: float = 1.0
    spoilt: float = 0.0
    grades_turns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_budgets(self.num_turns, self.max_turn_tokens, self.max_message_tokens)
        if not 0 < self.discount <= 1:
            raise ValueError(f"environment.discount={self.discount}: must lie in (0, 1]; 1 does not discount.")
        if self.spoilt < 0:
            raise ValueError(f"environment.spoilt={self.spoilt}: it is subtracted, so it must be at least 0.")

    def start(self, codec: Codec) -> None:
        """Checks that the messages fit.

        Raises:
            ValueError: naming the key, if a message has no tokens or too many.
        """
        for name, text in (("wrong", self.wrong), ("right", self.right)):
            if text is None:
                continue
            length = len(codec.encode_reply(_filled(text, Grade(0.0, False)), last=codec.end_tokens[0]))
            if not 0 < length <= self.max_message_tokens:
                raise ValueError(
                    f"environment.{name}: the message has {length} tokens (with those of the chat template), but must "
                    f"have 1 to environment.max_message_tokens={self.max_message_tokens}."
                )

    def reply(self, dialogues: Sequence[Dialogue]) -> list[str | None]:
        """The configured message for each grade."""
        replies = ((self.right if dialogue.grades[-1].correct else self.wrong, dialogue) for dialogue in dialogues)
        return [None if text is None else _filled(text, dialogue.grades[-1]) for text, dialogue in replies]

    def final(self, grades: Sequence[Grade]) -> Grade:
        """The last grade, with a score that counts how the policy came to it."""
        last = grades[-1]
        score = last.score * self.discount ** (len(grades) - 1) if last.score > 0 else last.score
        num_spoilt = sum(before.correct and not after.correct for before, after in pairwise(grades))
        return replace(last, score=score - self.spoilt * num_spoilt)


def _filled(text: str, grade: Grade) -> str:
    detail = ": ".join(part for part in (grade.failure, grade.detail) if part)
    return text.replace("{detail}", detail).replace("{answer}", grade.answer or "")
