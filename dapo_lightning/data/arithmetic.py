"""Running totals: a procedural task that a tiny policy can learn on two cores.

`7a+5b-3=` asks for the total of 7, +5 and -3; the letters number the terms, so that the policy finds the next term by
looking it up instead of counting. `7a+5=12b-3=9#9` is a correct completion: the answer is the text after the last `#`.

All worked examples are correct, but they are written in several styles: plain steps, redundant checks
(`a+5=12?12?12`), an early jump to the answer, or the answer at once. A tiny policy cannot do the last two in its head,
and redundant checks exhaust the token budget. What it has to unlearn are therefore habits: choices that it makes at
random after the warm start. This gives every technique something to do: easy prompts with only correct completions and
hard prompts with none, a long tail of lengths, and a useful style that is rare at first.
"""

from __future__ import annotations

import random
import string
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from dapo_lightning.data import WorkedExample
from dapo_lightning.types import Prompt

Terms = tuple[int, ...]


@dataclass(frozen=True)
class Arithmetic:
    """Generates sums of `min_terms` to `max_terms` signed digits whose running total stays within 0..max_total.

    Args:
        num_train, num_validation: numbers of prompts, sampled in the same way from two disjoint sets of sums: a hash
            of the text holds out a tenth of all sums, also from the worked examples. Short sums are few and therefore
            occur more than once.
        seed: determines the prompts; the seed of the run determines their order.
        plain_share: share of the worked examples, the first ones, with plain steps only: the skill before the habits.
        direct, checked: shares of the others that give the answer at once, and that contain redundant checks.
        jump: probability of jumping to the answer after a step.
        check: probability of one more redundant check.

    Raises:
        ValueError: naming the key and the range, if a setting is out of range.
    """

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
            raise ValueError(
                f"data.min_terms={self.min_terms} and data.max_terms={self.max_terms}: "
                "a sum has 2 to 20 terms. Set 2 <= min_terms <= max_terms <= 20."
            )
        if not 9 <= self.max_total <= 99:
            raise ValueError(f"data.max_total={self.max_total}: must be within 9 and 99.")
        shares = (self.direct + self.checked, self.jump)
        if not all(0 <= share <= 1 for share in shares) or not 0 <= self.check < 1:
            raise ValueError(
                f"data.direct + data.checked = {shares[0]}, data.jump={self.jump} and data.check={self.check} are "
                "probabilities. Set the first two within 0 and 1, and data.check below 1, so that checks end."
            )

    def train_prompts(self) -> Sequence[Prompt]:
        """Return `num_train` prompts."""
        return self._prompts("train", self.num_train)

    def validation_prompts(self) -> Sequence[Prompt]:
        """Return `num_validation` prompts that are not in the training set."""
        return self._prompts("validation", self.num_validation)

    def worked_examples(self, count: int, seed: int) -> list[WorkedExample]:
        """Return correct solutions of prompts that are not held out, plain ones first."""
        rng = random.Random(f"worked examples {seed}")
        questions = (self._terms(rng, held_out=False) for _ in range(count))
        return [
            WorkedExample(_question(terms), self._solution(terms, number < self.plain_share * count, rng))
            for number, terms in enumerate(questions)
        ]

    def _prompts(self, split: str, count: int) -> list[Prompt]:
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
            if (zlib.crc32(_question(terms).encode()) % 10 == 0) == held_out:
                return tuple(terms)

    def _solution(self, terms: Terms, plain: bool, rng: random.Random) -> str:
        style = 1.0 if plain else rng.random()
        if style < self.direct and len(terms) > 2:  # so that some prompts have only correct completions
            return f"#{sum(terms)}"
        check = self.check if style < self.direct + self.checked else 0.0
        total = terms[0]
        written = str(total)
        for label, term in zip(string.ascii_lowercase, terms[1:], strict=False):
            total += term
            written += f"{label}{term:+d}={total}"
            while rng.random() < check:
                written += f"?{total}"
            if not plain and rng.random() < self.jump:
                break
        return f"{written}#{sum(terms)}"


def _question(terms: Sequence[int]) -> str:
    return str(terms[0]) + "".join(map("{}{:+d}".format, string.ascii_lowercase, terms[1:])) + "="
