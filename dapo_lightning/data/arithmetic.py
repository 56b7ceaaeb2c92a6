"""Running totals: procedural arithmetic that a tiny policy can learn on two cores."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from dapo_lightning.data import WorkedExample
from dapo_lightning.types import Prompt


@dataclass(frozen=True)
class Arithmetic:
    """"7+5-3=" asks for the total of `min_terms` to `max_terms` single digits; "#9" answers."""

    min_terms: int
    max_terms: int
    num_train: int
    num_validation: int
    seed: int
    guess: float
    verify: float
    again: float

    def train_prompts(self) -> Sequence[Prompt]:
        return self._prompts()[self.num_validation :]

    def validation_prompts(self) -> Sequence[Prompt]:
        return self._prompts()[: self.num_validation]

    def _prompts(self) -> list[Prompt]:
        rng = random.Random(self.seed)
        seen: dict[str, Prompt] = {}
        while len(seen) < self.num_train + self.num_validation:
            terms = self._terms(rng)
            text = _text(terms)
            seen.setdefault(text, Prompt(text=text, answer=str(sum(terms)), source=f"arithmetic:{len(seen)}"))
        return list(seen.values())

    def _terms(self, rng: random.Random) -> list[int]:
        terms = [rng.randint(1, 9)]
        for _ in range(rng.randint(self.min_terms, self.max_terms) - 1):
            term = rng.randint(1, 9)
            minus = rng.random() < 0.4 and sum(terms) >= term
            terms.append(-term if minus else term)
        return terms

    def worked_examples(self, count: int, seed: int) -> list[WorkedExample]:
        rng = random.Random(seed + 1)
        held_out = {prompt.text for prompt in self.validation_prompts()}
        examples: list[WorkedExample] = []
        while len(examples) < count:
            terms = self._terms(rng)
            if _text(terms) not in held_out:
                examples.append(WorkedExample(_text(terms), self._solution(terms, rng)))
        return examples

    def _solution(self, terms: list[int], rng: random.Random) -> str:
        style = rng.random()
        if style < self.guess:
            return f"#{sum(terms)}"
        again = self.again if style < self.guess + self.verify else 0.0
        total, written = terms[0], str(terms[0])
        for term in terms[1:]:
            total += term
            written += f"{term:+d}={total}"
            while rng.random() < again:
                written += f"?{total}"
        return f"{written}#{total}"


def _text(terms: list[int]) -> str:
    return "".join(f"{term:+d}" for term in terms).lstrip("+") + "="
