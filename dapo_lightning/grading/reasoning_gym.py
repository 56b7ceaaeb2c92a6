"""The scorers that come with the tasks of reasoning-gym, without letting any of them evaluate hostile text.

Some hand the answer to Python's `eval`, or to SymPy's `parse_expr`, which does the same. Those get only answers in an
alphabet in which nothing but an answer can be said. While any other scorer runs, Python itself refuses to turn text
into code, so a later version of the package can evaluate no more than this one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dapo_lightning.grading.pattern import compiled

_LONGEST = 50_000  # characters; the largest matrices have half of that

_SUM = r"[\d\s+\-*/().]*"
# Numbers, letters that stand alone, and functions: neither another name nor an attribute can be spelt in these.
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
"""Tasks whose scorer evaluates text -> the answers that it may be given."""

REFUSED = {
    "composite": "its scorer hands answers on to those of other tasks, each of which may be given other answers only",
}
"""Tasks for which no such alphabet can be given -> why."""


class Scorer:
    """Scores the answer that the one group of `pattern` gives in its last match; None: the whole text.

    Raises:
        ValueError: if `pattern` is no such regular expression, or if hostile answers of the task cannot be told.
    """

    def __init__(self, task: str, options: Mapping[str, Any], pattern: str | None):
        from reasoning_gym import create_dataset

        if task in REFUSED:
            raise ValueError(
                f"reward.task={task}: {REFUSED[task]}, so that no text of the policy is evaluated. Choose one of the "
                "other tasks."
            )
        self._dataset = create_dataset(task, seed=0, size=1, **options)
        self._pattern = None if pattern is None else compiled(pattern)
        self._alphabet = EVALUATED.get(task)
        if self._alphabet is not None and not self._alphabet.fullmatch(right := self._dataset[0]["answer"]):
            raise ValueError(
                f"reward.task={task}: with these options a right answer is {right!r:.100}, but its scorer evaluates "
                "what it is given, so it gets numbers and names of one letter only. Give such names in data.options."
            )

    def __call__(self, item: tuple[dict[str, Any], str]) -> tuple[float, str | None]:
        """(the task's item, completion) -> score in [0, 1] and the answer that was read."""
        entry, completion = item
        answer = self._answer(completion)
        return (0.0 if answer is None else self._score(answer, entry)), answer

    def _answer(self, completion: str) -> str | None:
        if self._pattern is None:
            return completion.strip()
        answer = None
        for match in self._pattern.finditer(completion):
            answer = match[1]
        return answer

    def _score(self, answer: str, entry: Mapping[str, Any]) -> float:
        if self._alphabet is None:
            with _no_text_becomes_code():
                return float(self._dataset.score_answer(answer, entry))
        if len(answer) > _LONGEST or not self._alphabet.fullmatch(answer):
            return 0.0
        return float(self._dataset.score_answer(answer, entry))


_refusing = False
_is_watching = False


@contextmanager
def _no_text_becomes_code() -> Iterator[None]:
    """Within, `eval`, `exec` and `compile` of text raise RuntimeError, whoever calls them; modules can be imported."""
    global _refusing, _is_watching
    if not _is_watching:  # hooks cannot be taken away: this process has one
        sys.addaudithook(_refuse)
        _is_watching = True
    _refusing = True
    try:
        yield
    finally:
        _refusing = False


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "compile" and _refusing and str(arguments[1]).startswith("<"):  # not a file, such as "<string>"
        raise RuntimeError("a scorer of reasoning-gym tried to evaluate text: its task must be given an alphabet")
