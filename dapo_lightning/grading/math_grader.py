r"""Whether the final answer of a completion equals the reference: as a string, else as a number, else as mathematics.

A grade is a function of the two texts alone: trees are immutable, and nothing is remembered but what they determine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from dapo_lightning.grading.comparison import same
from dapo_lightning.grading.final_answer import answer_pattern, bare, final_answer
from dapo_lightning.grading.latex import parsed
from dapo_lightning.grading.points import exceeds_one, is_determined
from dapo_lightning.grading.quantities import Unit, in_words, measured
from dapo_lightning.grading.shapes import vote
from dapo_lightning.grading.spelling import simplified
from dapo_lightning.grading.tree import Node, renamed
from dapo_lightning.grading.work import limited_work

_MAX_CHARACTERS = 500  # a longer answer is right only if it is the reference, character for character


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

    Args:
        pattern: regular expression with one group; its last match is the answer. None: see `final_answer`.

    Raises:
        ValueError: if `pattern` is unfit.
    """

    def __init__(self, pattern: str | None = None):
        self._pattern = answer_pattern(pattern)

    def __call__(self, item: tuple[str, str]) -> MathVerdict:
        """Returns the verdict on a completion. It raises nothing but MemoryError."""
        reference, completion = item
        gold_text, gold = _reference(reference)
        answer = final_answer(completion, self._pattern, several="," in gold)
        if answer is None:
            return MathVerdict(False, None, "none", None)
        is_same = answer in (reference.strip(), gold_text)
        if max(len(answer), len(gold_text)) > _MAX_CHARACTERS:
            start = answer[:_MAX_CHARACTERS]
            return MathVerdict(is_same, start, "string" if is_same else "too_long", start)
        found = simplified(answer)
        with limited_work():
            correct, stage = (answer != "", "string") if is_same else _compare(gold, found)
        with limited_work():
            return MathVerdict(correct, answer, stage, _vote(gold if correct else found, gold))


@lru_cache(4096)  # many completions share a reference
def _reference(text: str) -> tuple[str, str]:
    """A reference read as answers are, which may be marked as they are; and simplified."""
    listed = _LISTED.fullmatch(text.strip())
    text = listed[2] if listed else text
    answer = bare(final_answer(text) or text)
    return answer, simplified(answer)


_LISTED = re.compile(r"\[\s*(['\"])(.*)\1\s*\]", re.DOTALL)
_INTEGER = re.compile(r"[+-]?\d{1,300}")
_CHOICE = re.compile(r"(?:(?:option|choice|answer) )?\(?([A-J])(?:\)|[.:](?:\s|$)|$)", re.IGNORECASE)
_CHOICES = re.compile(r"(?<![A-Za-z\\])[A-J](?![A-Za-z])")
_NAMED_CHOICE = re.compile(r"^\(?[A-J](?:\)|[.:](?=\s)) *(?=\S)")
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ .'-]+[^\W\d_]+)*")
_PRODUCT = re.compile(r"[a-df-hj-np-tv-z]{2,3}|[A-Z]{2}")  # a product of variables, more likely than a word
_BASED = re.compile(r"(\d[\dA-F]*)_(?:\w|\{\d+\})")
_MODULUS = re.compile(
    r" ?(?:\\pmod ?\{?|\( ?(?:\\?mod|\\bmod|\\text\{ ?mod ?\}) ?)(\w+)[})]?$|( ?\\b?mod ?\{?)(\w+)\}?$"
)
_COMMENT = re.compile(
    r"(?: |\\text\{ ?)\((?=[^()\\]*[A-Za-z]{3})[^()\\]*\)\}?$| ?\\text\{ ?\([A-J]\) ?\}$"  # 34 (thirty-four)
)
_PARAMETER = re.compile(  # 2\pi k, k \in \mathbb{Z}
    r"(?:\\text\{[a-z ,]*\}|[ ,;(])++(?:([a-z]) ?(?:\\in ?\\mathbb\{[ZN]\}|\\text\{ ?is an(?:y)? integer ?\})\)?"
    r"|(?<=integer \}|nteger \} )([a-z]))$"
)
_FAMILY = re.compile(r"\\\{ ?([a-z]) ?(?:\||:|\\mid) ?(\1 ?=.*)\\\}", re.DOTALL)
_CLOCK = re.compile(r"(\d{1,2}):(\d\d) *(?:([ap])\.? ?m\b\.?)?", re.IGNORECASE)
_ARTICLE = re.compile(r"(?:an?|the) (?=[a-z]{3})", re.IGNORECASE)
_VARIABLE = re.compile(r"(?:\\text\{[^{}]*\}|[^A-Za-z\\]|\\[A-Za-z]+)*+[A-Za-z]")
_CALLED_C = re.compile(r"(?<![A-Za-z\\])C ?\( ?(\d+) ?, ?(\d+) ?\)")
_DEGREES = (("degree", 1),)
_SAID = re.compile(r"[a-z][a-z -]+\(([\d.,]+)\)", re.IGNORECASE)  # twelve (12)
_MEANINGS = [
    (re.compile(words, re.IGNORECASE), meaning)
    for words, meaning in (
        (r"(?:there (?:is|are) )?no (?:real )?solutions?(?: exists?)?|(?:the )?empty set|none", Node("emptyset")),
        (r"(?:the )?(?:limit |it )?(?:does(?: not|n't) exist|dne|(?:is )?undefined)", Node("name", ("undefined",))),
        (r"(?:(?:the set of )?all )?real(?:s| numbers)", Node("name", ("\\mathbb R",))),
        (r"infinity|infinitely many", Node("infty")),
    )
]


def _plain(text: str) -> str:
    return re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip(" .,")


def _tight(text: str) -> str:
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", re.sub(r"(?<!\d) | (?!\d)", "", text))


def _compare(gold: str, found: str) -> tuple[bool, str]:
    if _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(found):
        return int(gold) == int(found), "number"
    equal = _same_string(gold, found)
    if equal is not None:
        return equal, "string"
    gold, found = (_FAMILY.sub(r"\2", text) for text in (gold, found))
    parameter, other_parameter = _PARAMETER.search(gold), _PARAMETER.search(found)
    if "(" not in gold:  # otherwise C(10,3) may be a point
        found = _CALLED_C.sub(r"\\binom{\1}{\2}", found)
    gold, found = _unmarked(gold), _unmarked(found)
    gold, found = _congruent(gold, found)
    (left, unit), (right, other) = _tree(gold), _tree(found, letters=not _VARIABLE.match(gold))
    if left is None or right is None:
        return False, "unparsed"
    if parameter and other_parameter:
        right = renamed(right, other_parameter[1] or other_parameter[2], parameter[1] or parameter[2])
    is_number = not set(gold + found) - set("0123456789.,/-+ ")
    return any(same(a, b) for a, b in _alternatives(left, unit, right, other)), "number" if is_number else "symbolic"


def _same_string(gold: str, found: str) -> bool | None:
    """Returns None if the strings do not decide."""
    gold, found = (_ARTICLE.sub("", _plain(text), count=1) for text in (gold, found))
    left, right = _tight(gold), _tight(found)
    if not right or left == right:
        return left == right != ""
    choice = _CHOICE.fullmatch(gold)
    if choice and choice[1].isupper() and (chosen := _CHOICE.match(found)):
        return {choice[1]} == {chosen[1].upper(), *_CHOICES.findall(found)}
    based, rebased = _BASED.fullmatch(left), _BASED.fullmatch(right)
    if based and not rebased:
        return based[1] == right  # the question names the base
    clock, other = _CLOCK.fullmatch(gold), _CLOCK.fullmatch(found)
    if clock and clock[3]:
        return other is not None and _time(other, clock[3]) == _time(clock, clock[3])
    if gold.casefold() in ("yes", "no", "true", "false"):
        return re.split("[,.;]", found.casefold())[0] == gold.casefold()
    if any(_is_words(text) for text in (gold, found)):
        if left.casefold() == right.casefold():
            return True
        return None if any(_value_of_words(text) for text in (gold, found)) else False
    return None


def _time(clock: re.Match[str], half: str) -> tuple[int, str, str]:
    return int(clock[1]), clock[2], (clock[3] or half).lower()


def _is_words(text: str) -> bool:
    return bool(_WORDS.fullmatch(text)) and not _PRODUCT.fullmatch(text)


def _value_of_words(text: str) -> Node | None:
    for words, meaning in _MEANINGS:
        if words.fullmatch(text):
            return meaning
    number = in_words(text)
    return None if number is None else Node("number", (number,))


def _unmarked(text: str) -> str:
    """Drops what names the choice before an answer, and what is said about it in brackets."""
    text = _NAMED_CHOICE.sub("", _plain(text) if text.startswith(r"\text{(") else text, count=1)
    if said := _SAID.fullmatch(text):
        return said[1]
    text = _PARAMETER.sub("", _COMMENT.sub("", text))
    return re.sub(r"^= ?", "", text.strip())


def _congruent(gold: str, found: str) -> tuple[str, str]:
    """Drops `(mod n)`; with another n, what is found stays as it is and so is not read."""
    modulo, other = _MODULUS.search(gold), _MODULUS.search(found)
    if modulo and (other is None or (modulo[1] or modulo[3]) == (other[1] or other[3])):
        return gold[: modulo.start()], found[: other.start()] if other else found
    return (gold, found[: other.start()]) if other and not modulo and other[1] else (gold, found)


def _tree(text: str, letters: bool = False) -> tuple[Node | None, Unit]:
    words = _value_of_words(_plain(text))
    if words is not None:
        return words, Unit()
    value, unit = measured(text, letters)
    tree = parsed(value)
    return tree if tree is None or is_determined(tree) else None, unit


_PERCENT = Node("number", (Fraction(1, 100),))


def _alternatives(gold: Node, unit: Unit, found: Node, other: Unit) -> Iterator[tuple[Node, Node]]:
    """The pairs of which one must be equal, if the answer is to be right."""
    if unit.dimensions and other.dimensions and unit.dimensions != other.dimensions:
        return
    if unit.dimensions and other.dimensions:
        gold, found = _times(gold, unit.factor), _times(found, other.factor)
    left, right = _times(gold, unit.scale), _times(found, other.scale)
    if unit.percent or not other.percent or exceeds_one(left):  # 50% is 50 if asked for in percent, and 0.5
        yield left, right
    if unit.percent != other.percent:
        yield (Node("*", (left, _PERCENT)), right) if unit.percent else (left, Node("*", (right, _PERCENT)))
    if {unit.dimensions, other.dimensions} == {(), _DEGREES}:
        yield (Node("degree", (gold,)), found) if unit.dimensions else (gold, Node("degree", (found,)))


def _times(node: Node, factor: Fraction) -> Node:
    return node if factor == 1 else Node("*", (node, Node("number", (factor,))))


def _vote(text: str, like: str) -> str:
    """Returns one spelling of an answer; the reference only shows whether it is a choice."""
    if _CHOICE.fullmatch(_plain(like)) and (chosen := _CHOICE.match(_plain(text))):
        return chosen[1].upper()
    tree, unit = _tree(_unmarked(text), letters=True)
    if tree is None or _is_words(_plain(text)):
        return _tight(_plain(text)).casefold()
    factor = unit.scale * unit.factor / (100 if unit.percent else 1)
    return " ".join((vote(_times(tree, factor)), *(f"{base}{n}" for base, n in unit.dimensions)))
