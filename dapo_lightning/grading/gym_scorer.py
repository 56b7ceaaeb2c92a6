"""The scorers of the tasks of reasoning-gym, with protection against hostile text and against scores for wrong answers.

Some scorers pass the answer to Python's `eval`, or to SymPy's `parse_expr`, which calls `eval`. They receive only
answers whose characters cannot form any code but an answer. While any other scorer runs, an audit hook of Python
refuses to compile text, so scorers that a later version of the package changes cannot evaluate text, either.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

from dapo_lightning.grading.final_answer import answer_pattern, last_match

_LONGEST = 50_000  # characters; the largest matrices have half as many

_SUM = r"[\d\s+\-*/().]*"
# Numbers, single letters and functions: no other name, and no attribute, can be written with these.
_FORMULA = (
    r"(?:[\s+\-*/^(),]|\d++(?:\.\d++)?|\.\d++|\b[A-Za-z]\b"
    r"|\b(?:exp|log|sqrt|a?sin|a?cos|a?tan|sinh|cosh|tanh|sec|csc|cot|Abs|Integral|pi)\b)*+"
)

EVALUATED: Mapping[str, re.Pattern[str]] = {
    task: re.compile(alphabet, re.ASCII)
    for task, alphabet in {
        "binary_matrix": r"[\d\s,\[\]-]*",
        "bitwise_arithmetic": r"[\s\w+-]*",  # evaluates the question only
        "countdown": _SUM,
        "intermediate_integration": _FORMULA,
        "n_queens": r"[Q_\s,'\"\[\]]*",
        "number_sorting": r"[\d\s,.'\"\[\]eE+-]*",  # evaluates the reference only
        "polynomial_multiplication": _FORMULA,
        "puzzle24": _SUM,
        "simple_integration": _FORMULA,
        "spiral_matrix": r"[\d\s,\[\]-]*",
        "string_insertion": r"[A-E\s,'\"\[\]]*",
    }.items()
}
"""Tasks whose scorer evaluates text -> the answers that it may receive."""

ALPHABETS = {
    **EVALUATED,
    "complex_arithmetic": re.compile(r"[\d\s.+\-()eEijIJ]*", re.ASCII),  # its scorer takes "nan" for any number
}
"""Tasks -> the answers that their scorers may receive; the others receive any."""

SCORERS: Mapping[str, Callable[[str, Mapping[str, Any]], float]] = {
    # Its scorer gives full marks to "0" if the answer is 0.65625, because the answer begins with "0".
    "coin_flip": lambda answer, entry: float(abs(Fraction(answer) - Fraction(entry["answer"])) <= 1e-4),
    # Its scorer interprets any text as True.
    "game_of_life_halting": lambda answer, entry: float(answer.casefold() == entry["answer"].casefold()),
}
"""Tasks whose scorer gives full marks to wrong answers -> the scorer that is used instead."""

REFUSED = {
    "composite": "its scorer passes answers to the scorers of other tasks, which accept different sets of answers",
}
"""Tasks that have no such alphabet -> the reason."""


class GymScorer:
    """Scores the answer, which is the one group in the last match of `pattern`; None: the whole completion.

    Raises:
        ValueError: if `pattern` is unfit, the package is missing, or hostile answers of the task cannot be recognised.
    """

    def __init__(self, task: str, options: Mapping[str, Any], pattern: str | None):
        try:
            from reasoning_gym import create_dataset
        except ModuleNotFoundError as error:
            raise ValueError(
                f'reward=reasoning_gym needs the package {error.name}: pip install "dapo-lightning[reasoning-gym]", or '
                "choose another reward=..."
            ) from error
        if task in REFUSED:
            raise ValueError(
                f"reward.task={task}: {REFUSED[task]}, so that no text of the policy is evaluated. Choose one of the "
                "other tasks."
            )
        self._dataset = create_dataset(task, seed=0, size=1, **options)
        self._pattern = answer_pattern(pattern)
        self._task, self._alphabet = task, ALPHABETS.get(task)
        if self._alphabet is not None and not self._alphabet.fullmatch(right := self._dataset[0]["answer"]):
            raise ValueError(
                f"reward.task={task}: with these options a right answer is {right!r:.100}, but its scorer evaluates "
                "answers, so it accepts only numbers and names of one letter. Give such names in data.options."
            )

    def __call__(self, item: tuple[dict[str, Any], str]) -> tuple[float, str | None]:
        """Maps the task's item and a completion to a score in [0, 1] and the answer (None if there is no answer)."""
        entry, completion = item
        answer = completion.strip() if self._pattern is None else last_match(self._pattern, completion)
        return (0.0 if answer is None else self._score(answer, entry)), answer

    def _score(self, answer: str, entry: Mapping[str, Any]) -> float:
        score_answer = SCORERS.get(self._task, self._dataset.score_answer)
        try:
            if self._alphabet is None:
                with _no_text_becomes_code():
                    score = float(score_answer(answer, entry))
            elif len(answer) > _LONGEST or not self._alphabet.fullmatch(answer):
                return 0.0
            else:
                score = float(score_answer(answer, entry))
        except (EvaluationError, MemoryError):
            raise
        except Exception:  # many scorers raise an exception if an answer does not have the expected form
            return 0.0
        return score if math.isfinite(score) else 0.0


class EvaluationError(RuntimeError):
    """A scorer tried to evaluate text."""


_refusing = False


@contextmanager
def _no_text_becomes_code() -> Iterator[None]:
    """Makes `eval`, `exec` and `compile` of text raise EvaluationError, whoever calls them. Imports still work."""
    global _refusing
    _refusing = True
    try:
        yield
    finally:
        _refusing = False


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "compile" and _refusing and str(arguments[1]).startswith("<"):  # "<string>", not a file
        raise EvaluationError("a scorer of reasoning-gym tried to evaluate text: its task must be given an alphabet")


sys.addaudithook(_refuse)
