"""What datasets have in common whose prompts are drawn at random."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

from dapo_lightning.types import Prompt


class Procedural(ABC):
    """A dataset that draws its prompts from two disjoint classes of questions, one of which is held out."""

    num_train: int
    num_validation: int

    def train_prompts(self) -> Sequence[Prompt]:
        """`num_train` prompts."""
        return self.prompts("train", self.num_train)

    def validation_prompts(self) -> Sequence[Prompt]:
        """`num_validation` prompts, none of them in the train set."""
        return self.prompts("validation", self.num_validation)

    @abstractmethod
    def prompts(self, split: str, count: int) -> Sequence[Prompt]:
        """The first `count` prompts of a split, "train" or "validation"."""


def is_held_out(question: str) -> bool:
    """Whether a question belongs to the tenth of all questions that is held out, by a hash of its text."""
    return zlib.crc32(question.encode()) % 10 == 0
