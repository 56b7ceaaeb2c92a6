"""Sums that need a second look: one turn has room for a few steps only, so long sums are finished in the next turn.

The prompts are those of `data=arithmetic`. In the worked examples, the first turn takes a few steps and gives the
running total as a provisional answer, `7a+5=12#12`; after the message of the environment, the second turn continues
where the first has stopped, `b-3=9#9`. The habits to be unlearned are to guess in the first turn, and to repeat a wrong
answer in the second one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from dapo_lightning.data import WorkedExample
from dapo_lightning.data.arithmetic import Arithmetic
from dapo_lightning.data.procedural import Procedural
from dapo_lightning.types import Prompt


@dataclass(frozen=True)
class SecondLook(Procedural):
    """Sums as in `Arithmetic`, with worked examples in two turns.

    Args:
        steps_per_turn: steps that a worked example takes in one turn.
        plain_share: the first worked examples, as a share of all, have no bad habits.
        guess, repeat: of the later ones, how many guess in the first turn, and how many of those whose first answer is
            wrong repeat it in the second turn.
        message: the message after a wrong answer (`environment.wrong`); its text follows the text of the end token.
    """

    repeats_prompts: ClassVar[bool] = True  # they are drawn at random
    min_terms: int
    max_terms: int
    max_total: int
    num_train: int
    num_validation: int
    seed: int
    steps_per_turn: int
    plain_share: float
    guess: float
    repeat: float
    message: str
    end: str = "<eos>"

    def __post_init__(self) -> None:
        if self.steps_per_turn < 1:
            raise ValueError(f"data.steps_per_turn={self.steps_per_turn}: must be at least 1.")
        if not all(0 <= share <= 1 for share in (self.plain_share, self.guess, self.repeat)):
            raise ValueError("data.plain_share, data.guess and data.repeat are shares, from 0 to 1.")
        self._sums()  # refuses other values without meaning

    def worked_examples(self, count: int, seed: int) -> list[WorkedExample]:
        """Solutions of prompts that are not held out; the turn of a policy is followed by the message it would read."""
        rng = random.Random(f"second look {seed}")
        plain = self._sums().worked_examples(count, seed)
        return [
            WorkedExample(example.prompt, self._in_turns(example.solution, number < self.plain_share * count, rng))
            for number, example in enumerate(plain)
        ]

    def prompts(self, split: str, count: int) -> Sequence[Prompt]:
        """The sums of `Arithmetic`."""
        return self._sums().prompts(split, count)

    def _sums(self) -> Arithmetic:
        sizes = (self.min_terms, self.max_terms, self.max_total, self.num_train, self.num_validation, self.seed)
        return Arithmetic(*sizes, plain_share=1.0, direct=0.0, checked=0.0, jump=0.0, check=0.0)

    def _in_turns(self, solution: str, plain: bool, rng: random.Random) -> str:
        written, _, answer = solution.partition("#")
        begin, *steps = re.split(r"(?=[a-z])", written)  # 7, a+5=12, b-3=9
        if plain or rng.random() >= self.guess:
            first = _turn([begin, *steps[: self.steps_per_turn]])
            left = steps[self.steps_per_turn :]
        else:
            first, left = f"#{rng.randint(0, self.max_total)}", [begin, *steps]
        if first.partition("#")[2] == answer:
            return first
        if plain or rng.random() >= self.repeat:
            second = _turn(left[: self.steps_per_turn + (left[0] == begin)])
        else:
            second = "#" + first.partition("#")[2]
        return first + self.end + self.message + second


def _turn(parts: Sequence[str]) -> str:
    """Steps, followed by the running total after them as the answer."""
    return "".join(parts) + "#" + parts[-1].rpartition("=")[2]
