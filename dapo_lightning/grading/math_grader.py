r"""Whether the final answer of a completion equals the reference: as a string, else as a number, else symbolically.

No text is ever evaluated as Python. What is obviously too expensive (long, or refused by `latex`) is not worked out.
Otherwise time and memory have no bound, as `(x+y+z)^{999}` shows: grade in a process that can be killed.
"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

from dapo_lightning.grading.final_answer import answer_pattern, final_answer
from dapo_lightning.grading.latex import parsed, written
from dapo_lightning.grading.quantities import measured, number, unassigned
from dapo_lightning.grading.spelling import simplified

_MAX_CHARACTERS = 500  # a longer answer is right only if it is the reference, character for character
_DIGITS = 200  # that must agree, of expressions that cannot be simplified to the same


class MathVerdict(NamedTuple):
    """The verdict on one completion.

    Args:
        answer: as found (its beginning, if it is too long); None if there is none.
        stage: what decided. "none" (the completion has no answer), "string", "number", "symbolic", "too_long" (only
            compared as it stands), or "unparsed" (the answer or the reference cannot be read as mathematics).
        vote: one representative of all spellings of this answer, for majority voting.
    """

    correct: bool
    answer: str | None
    stage: str
    vote: str | None


class MathGrader:
    """Grades (reference answer, completion).

    It imports SymPy and builds the parser when it is made, because that takes seconds, more than an item's time limit.

    Args:
        pattern: regular expression with one group; its last match is the answer. None: see `final_answer`.

    Raises:
        ValueError: if `pattern` is unfit, or a package is missing.
    """

    def __init__(self, pattern: str | None = None):
        self._pattern = answer_pattern(pattern)
        try:
            _same_mathematics("x+1", "1+2x")
        except ModuleNotFoundError as error:
            raise ValueError(
                f'reward=math needs the package {error.name}: pip install "dapo-lightning[math]", or choose another '
                "reward=..."
            ) from error

    def __call__(self, item: tuple[str, str]) -> MathVerdict:
        """Returns the verdict on a completion. It raises nothing but MemoryError, and may take long."""
        reference, completion = item
        answer = final_answer(completion, self._pattern)
        if answer is None:
            return MathVerdict(False, None, "none", None)
        is_same = answer == reference.strip()
        if max(len(answer), len(reference)) > _MAX_CHARACTERS:
            start = answer[:_MAX_CHARACTERS]
            return MathVerdict(is_same, start, "string" if is_same else "too_long", start)
        gold, found = _reference(reference), simplified(answer)
        correct, stage = (answer != "", "string") if is_same else _compare(gold, found)
        return MathVerdict(correct, answer, stage, _vote(gold, found))


_reference = lru_cache(4096)(simplified)  # many completions share a reference


def _compare(gold: str, found: str) -> tuple[bool, str]:
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
    """Returns one spelling of `found`. The reference only shows how to read it: as a choice, or with units.

    Units count only if `gold` has some, as they do for correctness; an answer without units then has those of `gold`.
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
_PRODUCT = re.compile(r"[a-df-hj-np-tv-z]{2,3}|[A-Z]{2}")  # a product of variables, more likely than a word
_BASED = re.compile(r"(\d[\dA-F]*)_(?:\w|\{\d+\})")


def _plain(text: str) -> str:
    return re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip(" .")


def _tight(text: str) -> str:
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", re.sub(r"(?<!\d) | (?!\d)", "", text))


def _same_string(gold: str, found: str) -> bool | None:
    """Returns None if the strings do not decide."""
    gold, found = _plain(gold), _plain(found)
    left, right = _tight(gold), _tight(found)
    if not right or left == right:
        return left == right != ""
    choice, chosen = _CHOICE.fullmatch(gold), _CHOICE.match(found)
    if choice and chosen and choice[1].isupper():
        return choice[1] == chosen[1].upper()
    based, rebased = _BASED.fullmatch(left), _BASED.fullmatch(right)
    if (based and not rebased and based[1] == right) or (rebased and not based and rebased[1] == left):
        return True  # the question names the base
    if any(_WORDS.fullmatch(text) and not _PRODUCT.fullmatch(text) for text in (gold, found)):
        return left.casefold() == right.casefold()
    return None


def _same_mathematics(gold: str, found: str) -> bool | None:
    """Returns None if one of them cannot be read."""
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
            # Without its own time limit, which needs the main thread: this process can be killed.
            same = verify(left, right, timeout_seconds=None, **options)
        return bool(same)
    except MemoryError:
        raise
    except Exception:  # what SymPy cannot compare counts as different
        return False


def _same_equation(left: Any, right: Any) -> bool | None:
    """Decides what math-verify gets wrong: it takes equations without solutions to be equal, and 1 to equal x+y=1.
    Returns None for the rest."""
    kinds = type(left).__name__, type(right).__name__
    if kinds != ("Equality", "Equality"):
        is_settled = "BooleanTrue" in kinds or "BooleanFalse" in kinds  # as |x|=-1 is
        return False if is_settled or (kinds[0] == "Equality" and left.lhs.is_Add) else None
    ratio = ((left.lhs - left.rhs) / (right.lhs - right.rhs)).simplify()
    if ratio.is_number and ratio.is_finite and not ratio.is_zero:
        return True
    return None if import_module("sympy").solve(left, left.free_symbols) else False


def _differ(gold: str, found: str, left: Any, right: Any) -> bool:
    """Finds differences that math-verify does not see: between {1,2} and (1,2), or the lists 2,2,3 and 2,3."""
    braces = [text.startswith((r"\{", "{")) and text.endswith("}") for text in (gold, found)]
    if braces[0] != braces[1]:
        other = found if braces[0] else gold
        return other[0] in "([" and r"\cup" not in other
    lists = [list(getattr(tree, "_unsorted_args", [])) for tree in (left, right)]
    repeats = any(len(items) > len(set(items)) for items in lists)
    return repeats and not all(braces) and Counter(map(str, lists[0])) != Counter(map(str, lists[1]))
