"""Running totals: procedural arithmetic that a tiny policy can learn on two cores.

`7a+5b-3=` asks for the total of 7, +5 and -3; the letters number the terms, so that finding the next one is a look-up
and not counting. `7a+5=12b-3=9#9` is a right completion: what stands after the last `#` is the answer.

The worked examples are all correct, but written in several ways: plain steps, idle checks (`a+5=12?12?12`), an early
jump to the answer, or the answer at once. A tiny policy cannot do the last two in its head, and idle checks run into
the token budget. So what it has to unlearn are habits, choices that it makes at random after the warm start, and there
is work for every technique: easy prompts that come out all right and hard ones that come out all wrong, a long tail of
lengths, a useful way of writing that starts out rare.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from dapo_lightning.data import WorkedExample
from dapo_lightning.data.procedural import Procedural, is_held_out
from dapo_lightning.types import Prompt

Terms = tuple[int, ...]


@dataclass(frozen=True)
class Arithmetic(Procedural):
    """Sums of `min_terms` to `max_terms` signed digits whose running total stays within 0..max_total.

    Args:
        num_train, num_validation: prompts, drawn alike from two disjoint classes of sums: a tenth of all sums, by a
            hash of their text, is held out, and never shown as a worked example either. There are few short sums, so a
            set holds them more than once.
        plain_share: the first worked examples, as a share of all, are plain steps only: the skill before the habits.
        direct, checked: of the later ones, how many give the answer at once, and how many check idly.
        jump: probability, after each step, of jumping to the answer.
        check: probability of yet another idle check.
    """

    repeats_prompts: ClassVar[bool] = True  # they are drawn at random
    min_terms: int
    max_terms: int
    max_total: int
    num_train: int
    num_validation: int
    seed: int
    plain_share: float
    direct: float
    checked: float
    jump: float
    check: float

    def __post_init__(self) -> None:
        if not 2 <= self.min_terms <= self.max_terms <= 20:
            raise ValueError(f"data.min_terms={self.min_terms} and data.max_terms={self.max_terms}: 2 to 20, in order.")
        if not 9 <= self.max_total <= 99:
            raise ValueError(f"data.max_total={self.max_total}: 9 to 99.")
        shares = (self.direct + self.checked, self.jump)
        if not all(0 <= share <= 1 for share in shares) or not 0 <= self.check < 1:
            raise ValueError("data.direct + data.checked, data.jump and data.check are probabilities (check below 1).")

    def worked_examples(self, count: int, seed: int) -> list[WorkedExample]:
        """Correct solutions of prompts that are not held out, plain ones first."""
        rng = random.Random(f"worked examples {seed}")
        questions = (self._terms(rng, held_out=False) for _ in range(count))
        return [
            WorkedExample(_question(terms), self._solution(terms, number < self.plain_share * count, rng))
            for number, terms in enumerate(questions)
        ]

    def prompts(self, split: str, count: int) -> list[Prompt]:
        """Those of a split, drawn with the seed of the data."""
        rng = random.Random(f"{split} {self.seed}")
        questions = (self._terms(rng, held_out=split == "validation") for _ in range(count))
        return [
            Prompt(_question(terms), str(sum(terms)), f"arithmetic:{split}:{number}")
            for number, terms in enumerate(questions)
        ]

    def _terms(self, rng: random.Random, held_out: bool) -> Terms:
        while True:
            terms = [rng.randint(0, 9)]
            for _ in range(rng.randint(self.min_terms, self.max_terms) - 1):
                total = sum(terms)
                terms.append(rng.randint(max(-9, -total), min(9, self.max_total - total)))
            if is_held_out(_question(terms)) == held_out:
                return tuple(terms)

    def _solution(self, terms: Terms, plain: bool, rng: random.Random) -> str:
        style = 1.0 if plain else rng.random()
        if style < self.direct and len(terms) > 2:  # two terms are never answered at once: some prompts start all right
            return f"#{sum(terms)}"
        check = self.check if style < self.direct + self.checked else 0.0
        total = terms[0]
        written = str(total)
        for label, term in zip(string.ascii_lowercase, terms[1:], strict=False):
            total += term
            written += _as_text([(label, term)]) + f"={total}"
            while rng.random() < check:
                written += f"?{total}"
            if not plain and rng.random() < self.jump:
                break
        return f"{written}#{sum(terms)}"


def _question(terms: Sequence[int]) -> str:
    return str(terms[0]) + _as_text(zip(string.ascii_lowercase, terms[1:], strict=False)) + "="


def _as_text(labelled: Iterable[tuple[str, int]]) -> str:
    return "".join(f"{label}{term:+d}" for label, term in labelled)
