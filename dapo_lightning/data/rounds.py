"""Sums in rounds, whose worked answers are long: thousands of tokens that a tiny policy can write.

`7a+5b-3x40=` asks for the last digit after 40 rounds of +5 and -3 that begin with 7. A right answer works through all
rounds and counts them down, `40a+5=2b-3=9,39a+5=4b-3=1,...#5`. Every step depends only on the round before it, so that
a policy that has seen some hundred tokens can write some thousand.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from dapo_lightning.data import WorkedExample
from dapo_lightning.data.procedural import Procedural, is_held_out
from dapo_lightning.types import Prompt

MAX_ROUNDS = 99  # the largest number that is one token of the tiny policy


@dataclass(frozen=True)
class Rounds(Procedural):
    """Sums of `min_terms` to `max_terms` terms from -`max_term` to `max_term`. A worked answer has `min_tokens` to
    `max_tokens` tokens of the tiny policy, with its end token; the number of rounds is chosen accordingly.

    A tenth of all sums, by a hash of their text, is held out. In worked examples, the number of rounds begins with 1,
    so that a warm start whose solutions are truncated shows the whole of short answers and the beginning of long ones.
    """

    min_terms: int
    max_terms: int
    max_term: int
    min_tokens: int
    max_tokens: int
    num_train: int
    num_validation: int
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.min_terms <= self.max_terms <= len(string.ascii_lowercase) - 3:  # without x
            raise ValueError(f"data.min_terms={self.min_terms} and data.max_terms={self.max_terms}: 1 to 23, in order.")
        if not 1 <= self.max_term <= 9:
            raise ValueError(f"data.max_term={self.max_term}: 1 to 9.")
        if not all(self._num_rounds(terms) for terms in range(self.min_terms, self.max_terms + 1)):
            raise ValueError(
                f"data.min_tokens={self.min_tokens} and data.max_tokens={self.max_tokens}: no number of rounds from 1 "
                f"to {MAX_ROUNDS} gives answers of that length for every number of terms. A round of n terms has "
                "4 n + 2 tokens."
            )

    def worked_examples(self, count: int, seed: int) -> list[WorkedExample]:
        """Correct answers to prompts that are not held out."""
        rng = random.Random(f"worked examples {seed}")
        found = []
        for _ in range(count):
            terms, _ = self._sum(rng, held_out=False)
            rounds = rng.randint(1, max(self._num_rounds(len(terms) - 1)))
            found.append(WorkedExample(question(terms, rounds), answer(terms, rounds)))
        return found

    def prompts(self, split: str, count: int) -> list[Prompt]:
        """Those of a split, drawn with the seed of the data."""
        rng = random.Random(f"{split} {self.seed}")
        sums = (self._sum(rng, held_out=split == "validation") for _ in range(count))
        return [
            Prompt(question(terms, rounds), str((terms[0] + rounds * sum(terms[1:])) % 10), f"rounds:{split}:{number}")
            for number, (terms, rounds) in enumerate(sums)
        ]

    def _sum(self, rng: random.Random, held_out: bool) -> tuple[list[int], int]:
        """The first digit with the terms, and the number of rounds."""
        while True:
            terms = [
                rng.randint(0, 9),
                *(
                    rng.randint(-self.max_term, self.max_term)
                    for _ in range(rng.randint(self.min_terms, self.max_terms))
                ),
            ]
            rounds = rng.choice(self._num_rounds(len(terms) - 1))
            if is_held_out(question(terms, rounds)) == held_out:
                return terms, rounds

    def _num_rounds(self, num_terms: int) -> range:
        """The numbers of rounds that give answers of the wanted length: n rounds, the answer and the end token."""
        size = 4 * num_terms + 2
        return range(max(1, -(-(self.min_tokens - 2) // size)), min(MAX_ROUNDS, (self.max_tokens - 2) // size) + 1)


def question(terms: Sequence[int], rounds: int) -> str:
    """The prompt for a first digit with its terms."""
    labelled = zip(string.ascii_lowercase, terms[1:], strict=False)
    return f"{terms[0]}{''.join(f'{label}{term:+d}' for label, term in labelled)}x{rounds}="


def answer(terms: Sequence[int], rounds: int) -> str:
    """The worked answer."""
    total, written = terms[0], []
    for number in range(rounds, 0, -1):
        steps = [str(number)]
        for label, term in zip(string.ascii_lowercase, terms[1:], strict=False):
            total = (total + term) % 10
            steps.append(f"{label}{term:+d}={total}")
        written.append("".join(steps))
    return f"{','.join(written)}#{total}"
