r"""Whether the final answer of a completion is the reference: as a string, else as a number, else as mathematics.

No text is ever evaluated as Python. math-verify's own `parse` hands plain expressions, and even the digits of LaTeX
ones, to SymPy's `parse_expr`, which calls `eval`; here only LaTeX of listed commands and characters is parsed, and
`_converter` makes numbers of digits itself. Time and memory are not bounded, but what is seen at once to be too much
(long, deeply nested, with huge powers or factorials) is refused. The rest, `(x+y+z)^{999}` to be expanded say, is for
the calling process to bear, and for its parent to kill.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib import import_module
from typing import Any

from dapo_lightning.grading.extract import final_answer, measured, number, simplified, unassigned
from dapo_lightning.grading.pattern import compiled

_MAX_DEPTH = 12  # of brackets: beyond, each can double the time that parsing takes
_MAX_BITS = 20_000  # of any number that has to be written out to compare
_DIGITS = 200  # to which expressions that cannot be simplified to the same must agree


@dataclass(frozen=True)
class MathVerdict:
    """Whether an answer is right, the answer as found (its beginning, if it is too long), and the stage that decided.

    Stages: "none" (the completion has no answer), "string", "number", "symbolic", "too_long" (for more than comparing
    it as it stands), "unparsed" (it, or the reference, cannot be read as mathematics).
    """

    correct: bool
    answer: str | None
    stage: str


class MathGrader:
    """Grades (reference answer, completion) -> (correct, answer, stage), the fields of a `MathVerdict`.

    Args:
        pattern: regular expression with one group; its last match is the answer. None: see `final_answer`.
        max_answer_characters: longer answers are right only if they are the reference, character for character.

    Raises ValueError if `pattern` is no such expression.
    """

    def __init__(self, pattern: str | None = None, max_answer_characters: int = 500):
        self._pattern = None if pattern is None else compiled(pattern)
        self._max_characters = max_answer_characters

    def __call__(self, item: tuple[str, str]) -> tuple[bool, str | None, str]:
        """The verdict on a completion. Raises nothing but MemoryError; may take long, see above."""
        verdict = self._verdict(*item)
        return verdict.correct, verdict.answer, verdict.stage

    def _verdict(self, reference: str, completion: str) -> MathVerdict:
        answer = final_answer(completion, self._pattern)
        if answer is None:
            return MathVerdict(False, None, "none")
        if answer == reference.strip():
            return MathVerdict(answer != "", answer[: self._max_characters], "string")
        if max(len(answer), len(reference)) > self._max_characters:
            return MathVerdict(False, answer[: self._max_characters], "too_long")
        correct, stage = _compared(_reference(reference), simplified(answer))
        return MathVerdict(correct, answer, stage)


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


_CHOICE = re.compile(r"(?:(?:option|choice) )?\(?([A-J])(?:\)|[.:](?:\s|$)|$)", re.IGNORECASE)
_WORDS = re.compile(r"[A-Za-z]{2,}(?:[ .']+[A-Za-z]+)*")
_PRODUCT = re.compile(r"[a-df-hj-np-tv-z]{2,3}|[A-Z]{2}")  # of variables, more likely than a word
_BASED = re.compile(r"(\d[\dA-F]*)_(?:\w|\{\d+\})")


def _same_string(gold: str, found: str) -> bool | None:
    """None if strings cannot tell."""
    gold, found = (re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip(" .") for text in (gold, found))
    left, right = (re.sub(r"([_^])\{(\w)\}", r"\1\2", re.sub(r"(?<!\d) | (?!\d)", "", text)) for text in (gold, found))
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


_COMMANDS = set(
    "frac sqrt pi infty cdot times div pm mp cup cap setminus emptyset in mathbb leq geq neq sin cos tan csc sec cot"
    " arcsin arccos arctan sinh cosh tanh log ln exp lfloor rfloor lceil rceil binom begin end text overline bar hat"
    " vec circ alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi varphi chi psi"
    " omega Delta Omega Sigma Phi Psi Theta Lambda \\ { }".split()
)
_HARMLESS = re.compile(r"\\text\{[A-Za-z ]*\}|\\(?:begin|end)\{pmatrix\}|\\mathbb\{[RQZNC]\}")
_REFUSED = re.compile(
    r"[^A-Za-z0-9\s+*/^_=<>()\[\]{}|,;:.!&\\-]"  # quotes, for one
    r"|(?<!\\)\b[A-Za-z]{4,}"  # prose
    r"|\d_|(?<![_\d])\d+ \d"  # number bases; 1 2 would be read as 1 + 2
    r"|\\sqrt\[(?![A-Za-z0-9+-]{1,8}\])"  # is worked out while parsing, before its size is known
    r"|([\^_]) ?(?:\d+|[A-Za-z]|\{[^{}]*\}) ?\1"  # 2^3^4, in which order?
    r"|\\(?:text|begin|end|mathbb)\b"
)
_REWRITTEN = [
    (re.compile(pattern), latex)
    for pattern, latex in (
        (r"(?<=\S) ?\\approx.*", ""),
        (r",? ?(?:\\text\{[a-z ,]*\} ?)?\b[a-z] ?\\in ?\\mathbb\{[ZN]\}$", ""),  # 2\pi k, k \in \mathbb{Z}
        (r"(?<!%)%(?!%)", ""),
        (r"(?<![\d,.(\[{])(\d{1,3}),(?=\d{3}(?!\d))", r"\1"),
        (r"\\text\{ ?([A-Za-z]) ?\}", r" \1 "),
        (r"(?<![\d.^_}])(\d+) ?\\frac\{(\d+)\}\{(\d+)\}", r"(\1+\\frac{\2}{\3})"),
        (r"(?<![A-Za-z\\])([a-eik-zA-EI-OR-Z]) ?(?=\()", r"\1\\cdot "),  # no function: f, g, h, j, F, G, H, P, Q are
    )
]


def _same_mathematics(gold: str, found: str) -> bool | None:
    """None if one of them cannot be read."""
    texts = _latex(gold), _latex(found)
    left, right = (None if text is None else _parsed(text) for text in texts)
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


def _latex(text: str) -> str | None:
    """What the parser may be given for simplified `text`; None if nothing."""
    for pattern, latex in _REWRITTEN:
        text = pattern.sub(latex, text)
    text = text.replace("°", r"^\circ " if any(name in text for name in ("sin", "cos", "tan")) else "")
    if _REFUSED.search(_HARMLESS.sub("", text)) or not text.strip():
        return None
    if any(command not in _COMMANDS for command in re.findall(r"\\([A-Za-z]+|.)", text)):
        return None
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return text if deepest <= _MAX_DEPTH else None


@lru_cache(1024)
def _parsed(latex: str) -> Any:
    """The SymPy object; None if it is no mathematics, or too much of it."""
    convert = _converter()
    try:
        parsed = convert(latex)
        _bits(parsed)
    except MemoryError:
        raise
    except Exception:  # the parser fails in many ways, RecursionError among them
        return None
    return parsed


def _bits(tree: Any) -> float:
    """Bound on the bits of the numbers in a SymPy object, once it is worked out: at least 1.

    Raises OverflowError if there may be too many, ValueError if the object has something in it that no answer has.
    """
    kind = type(tree).__name__
    if not _SYMBOL.fullmatch(str(getattr(tree, "name", kind if getattr(tree, "is_Function", False) else ""))):
        raise ValueError("no name of a variable or function")
    parts = [_bits(part) for part in (tree.flat() if hasattr(tree, "flat") else getattr(tree, "args", ()))]
    bits = float(sum(parts, start=1))
    if getattr(tree, "is_Rational", False):
        bits = max(tree.p.bit_length(), tree.q.bit_length(), 1)
    elif kind in ("Pow", "exp") and (parts[-1] > 30 or not tree.exp.free_symbols):
        factor = abs(float(tree.exp)) if tree.exp.is_Rational else 2 ** min(parts[-1], 64)
        bits = max(1, factor) * (parts[0] if kind == "Pow" else 2)
    elif kind in ("factorial", "binomial"):
        bits = 2 ** min(2 * max(parts), 64)
    if bits > _MAX_BITS:
        raise OverflowError("too much to work out")
    return bits


_SYMBOL = re.compile(r"[A-Za-z0-9_{}+,-]*")


@lru_cache(1)
def _converter() -> Any:
    """latex2sympy, with numbers exact and made without `parse_expr`, and without its unusual readings."""
    sympy = import_module("sympy")
    latex2sympy = import_module("latex2sympy2_extended.latex2sympy2")
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # warns of each process that has no time limit of its own

    class Converter(latex2sympy._Latex2Sympy):  # type: ignore[name-defined]
        def parse(self, latex: str) -> Any:
            tree = self.create_parser(latex).math()
            for rule in ("set_relation", "set_elements", "set_elements_relation"):
                if (part := getattr(tree, rule)()) is not None:
                    return getattr(self, f"convert_{rule}")(part)
            raise ValueError("no mathematics")

        def parse_number(self, text: str) -> Any:
            if not re.fullmatch(r"(?=\.?\d)[\d,]*\.?\d*(?:E[+-]?\d{1,3})?", text, re.ASCII):
                raise ValueError("no number")
            value = Fraction(text.replace(",", ""))
            return sympy.Rational(value.numerator, value.denominator)

        def convert_postfix_list(self, factors: list[Any], start: int = 0) -> Any:
            product, *rest = (self.convert_postfix(factor) for factor in factors[start:])
            for factor in rest:  # 2(3) is 6: mixed numbers are written as sums before
                is_matrix = getattr(product, "is_Matrix", False) or getattr(factor, "is_Matrix", False)
                product = (self.mat_mul_flat if is_matrix else self.mul_flat)(product, factor)
            return product

        def convert_interval(self, interval: Any) -> Any:
            for end in interval.expr():  # they are compared, in whatever time that takes
                _bits(self.convert_expr(end))
            return super().convert_interval(interval)

        def convert_binom(self, binom: Any) -> Any:
            ends = self.convert_expr(binom.upper), self.convert_expr(binom.lower)
            return sympy.binomial(*ends, evaluate=False)

        def convert_atom_expr(self, atom: Any) -> Any:
            return super().convert_atom_expr(atom).xreplace({sympy.Symbol("i", real=True): sympy.I})

    config = latex2sympy.ConversionConfig(lowercase_symbols=False)  # R is not r
    return lambda latex: Converter(None, True, True, config).parse(latex)
