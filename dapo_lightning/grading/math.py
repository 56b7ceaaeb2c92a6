r"""Whether the final answer of a completion is the reference: as a string, else as a number, else as mathematics.

No text is ever evaluated as Python. Time and memory are not bounded, but what is seen at once to be too much (long, or
refused by `latex`) is not worked out. The rest, `(x+y+z)^{999}` to be expanded say, is for the calling process to bear,
and for its parent to kill.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib import import_module
from typing import Any

from dapo_lightning.grading.extract import final_answer, measured, number, simplified, unassigned
from dapo_lightning.grading.latex import parsed, written
from dapo_lightning.grading.pattern import compiled

_DIGITS = 200  # to which expressions that cannot be simplified to the same must agree


@dataclass(frozen=True)
class MathVerdict:
    """Whether an answer is right, the answer as found (its beginning, if it is too long), the stage that decided, and
    its vote: what stands for all spellings of this answer when completions of one prompt are counted.

    Stages: "none" (the completion has no answer), "string", "number", "symbolic", "too_long" (for more than comparing
    it as it stands), "unparsed" (it, or the reference, cannot be read as mathematics).
    """

    correct: bool
    answer: str | None
    stage: str
    vote: str | None


class MathGrader:
    """Grades (reference answer, completion) -> (correct, answer, stage, vote), the fields of a `MathVerdict`.

    Args:
        pattern: regular expression with one group; its last match is the answer. None: see `final_answer`.
        max_answer_characters: longer answers are right only if they are the reference, character for character.

    Imports SymPy and builds the parser, seconds of work that no item's time limit has to cover.

    Raises ValueError if `pattern` is no such expression.
    """

    def __init__(self, pattern: str | None = None, max_answer_characters: int = 500):
        self._pattern = None if pattern is None else compiled(pattern)
        self._max_characters = max_answer_characters
        _same_mathematics("x+1", "1+2x")

    def __call__(self, item: tuple[str, str]) -> tuple[bool, str | None, str, str | None]:
        """The verdict on a completion. Raises nothing but MemoryError; may take long, see above."""
        verdict = self._verdict(*item)
        return verdict.correct, verdict.answer, verdict.stage, verdict.vote

    def _verdict(self, reference: str, completion: str) -> MathVerdict:
        answer = final_answer(completion, self._pattern)
        if answer is None:
            return MathVerdict(False, None, "none", None)
        if max(len(answer), len(reference)) > self._max_characters:
            correct, start = answer == reference.strip(), answer[: self._max_characters]
            return MathVerdict(correct, start, "string" if correct else "too_long", start)
        gold, found = _reference(reference), simplified(answer)
        correct, stage = (answer != "", "string") if answer == reference.strip() else _compared(gold, found)
        return MathVerdict(correct, answer, stage, _vote(gold, found))


_reference = lru_cache(4096)(simplified)  # many completions share one


def _compared(gold: str, found: str) -> tuple[bool, str]:
    gold, found = unassigned(gold, found)
    same = _same_string(gold, found)
    if same is not None:
        return same, "string"
    (gold, gold_unit), (found, found_unit) = measured(gold), measured(found)
    fits = not gold_unit.known or not found_unit.known or gold_unit.known == found_unit.known
    left, right = number(gold), number(found)
    if left is not None and right is not None:
        left, right = left * gold_unit.scale, right * found_unit.scale
        percent = right * Fraction(100) ** (gold_unit.percent - found_unit.percent)
        return fits and left in (right, percent), "number"  # 50% is 50 if asked for in percent, and 0.5
    if not fits:
        return False, "string"
    same = _same_mathematics(gold, found)
    return same is True, "unparsed" if same is None else "symbolic"


def _vote(gold: str, found: str) -> str:
    """One spelling of what `found` says, which `gold` says how to read, but does not otherwise bear on.

    Units count only if `gold` has some, as they do for correctness; an answer without is then meant in those of `gold`.
    """
    if _CHOICE.fullmatch(_plain(gold)) and (chosen := _CHOICE.match(_plain(found))):
        return chosen[1].upper()
    (_, gold_unit), (value, unit) = map(measured, unassigned(gold, found))
    units = unit.known or gold_unit.known if gold_unit.known else ()
    exact = number(value)
    if exact is not None:
        return " ".join((str(exact * unit.scale), *units))
    text = _plain(value)
    as_read = text.casefold() if _WORDS.fullmatch(text) and not _PRODUCT.fullmatch(text) else written(value)
    return " ".join((_tight(text) if as_read is None else as_read, *units))


_CHOICE = re.compile(r"(?:(?:option|choice) )?\(?([A-J])(?:\)|[.:](?:\s|$)|$)", re.IGNORECASE)
_WORDS = re.compile(r"[A-Za-z]{2,}(?:[ .']+[A-Za-z]+)*")
_PRODUCT = re.compile(r"[a-df-hj-np-tv-z]{2,3}|[A-Z]{2}")  # of variables, more likely than a word
_BASED = re.compile(r"(\d[\dA-F]*)_(?:\w|\{\d+\})")


def _plain(text: str) -> str:
    return re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip(" .")


def _tight(text: str) -> str:
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", re.sub(r"(?<!\d) | (?!\d)", "", text))


def _same_string(gold: str, found: str) -> bool | None:
    """None if strings cannot tell."""
    gold, found = _plain(gold), _plain(found)
    left, right = _tight(gold), _tight(found)
    if not right or left == right:
        return left == right != ""
    choice, chosen = _CHOICE.fullmatch(gold), _CHOICE.match(found)
    if choice and chosen and choice[1].isupper():
        return choice[1] == chosen[1].upper()
    based, rebased = _BASED.fullmatch(left), _BASED.fullmatch(right)
    if (based and not rebased and based[1] == right) or (rebased and not based and rebased[1] == left):
        return True  # whoever asks for it in a base knows in which
    if any(_WORDS.fullmatch(text) and not _PRODUCT.fullmatch(text) for text in (gold, found)):
        return left.casefold() == right.casefold()
    return None


def _same_mathematics(gold: str, found: str) -> bool | None:
    """None if one of them cannot be read."""
    left, right = parsed(gold), parsed(found)
    if left is None or right is None:
        return None
    verify = import_module("math_verify.grader").verify
    options = {"numeric_precision": _DIGITS, "allow_set_relation_comp": True, "raise_on_error": True}
    try:
        if type(left).__name__ == type(right).__name__ == "Equality":  # real x^2=-1 and x^2=-2 have the same solutions
            left, right = (side.xreplace({x: x.func(x.name) for x in side.free_symbols}) for side in (left, right))
        same = _same_equation(left, right)
        if same is None and not _differ(gold, found, left, right):
            # Its own time limit would need the main thread, and this process can be killed.
            same = verify(left, right, timeout_seconds=None, **options)
        return bool(same)
    except MemoryError:
        raise
    except Exception:  # what SymPy cannot compare is not the same
        return False


def _same_equation(left: Any, right: Any) -> bool | None:
    """None if math-verify is to find out. It takes equations without solutions for the same, and 1 for x+y=1."""
    kinds = type(left).__name__, type(right).__name__
    if kinds != ("Equality", "Equality"):
        is_settled = "BooleanTrue" in kinds or "BooleanFalse" in kinds  # as |x|=-1 is
        return False if is_settled or (kinds[0] == "Equality" and left.lhs.is_Add) else None
    ratio = ((left.lhs - left.rhs) / (right.lhs - right.rhs)).simplify()
    if ratio.is_number and ratio.is_finite and not ratio.is_zero:
        return True
    return None if import_module("sympy").solve(left, left.free_symbols) else False


def _differ(gold: str, found: str, left: Any, right: Any) -> bool:
    """Whether these are things that math-verify takes for the same: {1,2} and (1,2), or the lists 2,2,3 and 2,3."""
    braces = [text.startswith((r"\{", "{")) and text.endswith("}") for text in (gold, found)]
    if braces[0] != braces[1]:
        other = found if braces[0] else gold
        return other[0] in "([" and r"\cup" not in other
    lists = [list(getattr(tree, "_unsorted_args", [])) for tree in (left, right)]
    repeats = any(len(items) > len(set(items)) for items in lists)
    return repeats and not all(braces) and Counter(map(str, lists[0])) != Counter(map(str, lists[1]))
