"""Small programs: functions of lists that a tiny policy can learn to write on two cores.

`rd2a5s=` asks for a function `f` that reverses a list, drops its first 2 items, appends a 5, and sorts it. The row has
assert statements, and the policy sees none of them: `reward=code` runs them.

The worked examples are all correct, but they are written in several ways: line by line, with idle lines (`x=x`) that
run into the token budget, with the rest of the work in the last line, or as one expression. The last two require
the steps in a different order from that of the question, and a tiny policy makes mistakes there. As in
`data.arithmetic`, it therefore has habits to unlearn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dapo_lightning.data import WorkedExample
from dapo_lightning.data.procedural import Procedural, is_held_out
from dapo_lightning.types import Prompt

Step = tuple[str, int | None]  # a letter, and a number for some


@dataclass(frozen=True)
class _Kind:
    """What a letter asks for: the bounds of its number k, its line, its expression of x, and what it does."""

    bounds: tuple[int, int] | None
    line: str
    expression: str
    function: Callable[[list[int], Any], list[int]]


_KINDS = {
    "r": _Kind(None, "x=x[::-1]", "{x}[::-1]", lambda x, k: x[::-1]),
    "s": _Kind(None, "x.sort()", "sorted({x})", lambda x, k: sorted(x)),
    "u": _Kind(None, "x+=x", "{x}*2", lambda x, k: x * 2),
    "d": _Kind((1, 3), "x=x[{k}:]", "{x}[{k}:]", lambda x, k: x[k:]),
    "t": _Kind((3, 5), "x=x[:{k}]", "{x}[:{k}]", lambda x, k: x[:k]),
    "a": _Kind((0, 9), "x+=[{k}]", "{x}+[{k}]", lambda x, k: [*x, k]),
    "i": _Kind((0, 9), "x=[{k}]+x", "[{k}]+{x}", lambda x, k: [k, *x]),
}
_IDLE = " x=x\n"


@dataclass(frozen=True)
class ListPrograms(Procedural):
    """Functions of `min_steps` to `max_steps` different steps, each with `num_tests` assert statements.

    Args:
        num_train, num_validation: prompts, drawn alike from two disjoint classes of questions: a tenth of all, by a
            hash of their text, is held out, and never shown as a worked example either.
        plain_share: the first worked examples, as a share of all, are line by line only: the skill before the habits.
        direct, idle: of the later ones, how many are one expression, and how many have idle lines.
        jump: probability, after each line, of doing the rest in the last line.
        again: probability of one more idle line.
    """

    repeats_prompts: ClassVar[bool] = True  # they are drawn at random
    min_steps: int
    max_steps: int
    num_tests: int
    num_train: int
    num_validation: int
    seed: int
    plain_share: float
    direct: float
    idle: float
    jump: float
    again: float

    def __post_init__(self) -> None:
        if not 1 <= self.min_steps <= self.max_steps <= len(_KINDS):
            raise ValueError(
                f"data.min_steps={self.min_steps} must not exceed data.max_steps={self.max_steps}; both lie in 1 to "
                f"{len(_KINDS)}."
            )
        if not all(0 <= share <= 1 for share in (self.direct + self.idle, self.jump)) or not 0 <= self.again < 1:
            raise ValueError("data.direct + data.idle, data.jump and data.again are probabilities (again below 1).")

    def worked_examples(self, count: int, seed: int) -> list[WorkedExample]:
        """Returns correct programs for prompts that are not held out, plain ones first."""
        rng = random.Random(f"worked examples {seed}")
        questions = (self._steps(rng, held_out=False) for _ in range(count))
        return [
            WorkedExample(_question(steps), self._program(steps, number < self.plain_share * count, rng))
            for number, steps in enumerate(questions)
        ]

    def prompts(self, split: str, count: int) -> list[Prompt]:
        """Those of a split, drawn with the seed of the data."""
        rng = random.Random(f"{split} {self.seed}")
        return [
            self._prompt(self._steps(rng, held_out=split == "validation"), f"list_programs:{split}:{number}", rng)
            for number in range(count)
        ]

    def _prompt(self, steps: Sequence[Step], source: str, rng: random.Random) -> Prompt:
        lists = [[rng.randint(0, 9) for _ in range(6)] for _ in range(self.num_tests)]
        tests = [f"assert f({items}) == {_result(steps, items)}" for items in lists]
        return Prompt(_question(steps), _lines(steps), source, {"tests": tests})

    def _steps(self, rng: random.Random, held_out: bool) -> tuple[Step, ...]:
        while True:
            letters = rng.sample(list(_KINDS), rng.randint(self.min_steps, self.max_steps))
            kinds = [(letter, _KINDS[letter].bounds) for letter in letters]
            steps = tuple((letter, rng.randint(*bounds) if bounds else None) for letter, bounds in kinds)
            if is_held_out(_question(steps)) == held_out:
                return steps

    def _program(self, steps: Sequence[Step], plain: bool, rng: random.Random) -> str:
        style = 1.0 if plain else rng.random()
        if style < self.direct:
            return f"f=lambda x:{_expression(steps)}"
        again = self.again if style < self.direct + self.idle else 0.0
        number, lines = 0, ""
        while number < len(steps):
            lines += _line(steps[number])
            number += 1
            while rng.random() < again:
                lines += _IDLE
            if not plain and rng.random() < self.jump:
                break
        return f"def f(x):\n{lines} return {_expression(steps[number:])}"


def _question(steps: Sequence[Step]) -> str:
    return "".join(letter + ("" if number is None else str(number)) for letter, number in steps) + "="


def _line(step: Step) -> str:
    letter, number = step
    return f" {_KINDS[letter].line.format(k=number)}\n"


def _lines(steps: Sequence[Step]) -> str:
    return f"def f(x):\n{''.join(map(_line, steps))} return x"


def _expression(steps: Sequence[Step]) -> str:
    expression = "x"
    for letter, number in steps:
        inner = expression if expression == "x" or letter == "s" else f"({expression})"
        expression = _KINDS[letter].expression.format(x=inner, k=number)
    return expression


def _result(steps: Sequence[Step], items: list[int]) -> list[int]:
    for letter, number in steps:
        items = _KINDS[letter].function(items, number)
    return items
