r"""LaTeX -> SymPy, without ever evaluating text as Python.

math-verify's own `parse` passes plain expressions, and even the digits of LaTeX, to SymPy's `parse_expr`, which calls
`eval`. Here only LaTeX of listed commands and characters is parsed, and `_converter` reads the digits itself. What is
obviously too expensive (deeply nested, or with huge powers or factorials) is refused.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import lru_cache
from importlib import import_module
from typing import Any
from zlib import crc32

_MAX_DEPTH = 12  # of brackets: each one beyond can double the time of parsing
_MAX_BITS = 20_000  # of any number that must be written out for a comparison

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
    r"|\\sqrt\[(?![A-Za-z0-9+-]{1,8}\])"  # is worked out during parsing, before its size is known
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


def _latex(text: str) -> str | None:
    """Returns the LaTeX that the parser may read in place of simplified `text`; None if it must not read it."""
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
def parsed(text: str) -> Any:
    """Returns the SymPy object of simplified `text`; None if it is not mathematics, or too expensive."""
    latex = _latex(text)
    if latex is None:
        return None
    convert = _converter()
    try:
        tree = convert(latex)
        _bits(tree)
    except MemoryError:
        raise
    except Exception:  # the parser fails in many ways, RecursionError among them
        return None
    return tree


@lru_cache(1024)
def written(text: str) -> str | None:
    """Writes `text` in one way: an expression as its value, with a fixed number in place of each variable.

    Values need no simplification, so they are quick to compute, even for (x+1)^{500}, and equal for (x+1)^2 and
    x^2+2x+1. Returns None if `text` cannot be read, or if SymPy loses a part of it: of 1=2, 1/0 and the list 2,2,3.
    """
    tree = parsed(text)
    items = getattr(tree, "_unsorted_args", ())
    if tree is None or len(items) > len(set(items)):
        return None
    sympy = import_module("sympy")
    try:
        tree = tree.doit()
        if isinstance(tree, sympy.Expr) and not tree.is_Rational:
            # Floats: with fractions, SymPy would write out powers that are raised to them.
            values = {x: sympy.Float(crc32(x.name.encode()) / 2**32, 30) for x in tree.free_symbols}
            tree = sympy.N(tree.xreplace(values), 12, chop=True)
        is_less = tree in (sympy.true, sympy.false, sympy.zoo, sympy.nan)
        return None if is_less else re.sub(r"(?<=\d)\.0+$", "", str(tree))
    except MemoryError:
        raise
    except Exception:  # SymPy cannot work it out
        return None


def _bits(tree: Any) -> float:
    """Returns a bound, at least 1, on the bits of the numbers in a SymPy object once it is worked out.

    Raises:
        OverflowError: if there may be too many.
        ValueError: if the object contains something that no answer contains.
    """
    kind = type(tree).__name__
    if not _SYMBOL.fullmatch(str(getattr(tree, "name", kind if getattr(tree, "is_Function", False) else ""))):
        raise ValueError("not the name of a variable or function")
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
    """Returns latex2sympy with exact numbers, without `parse_expr`, and without its unusual readings."""
    sympy = import_module("sympy")
    latex2sympy = import_module("latex2sympy2_extended.latex2sympy2")
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # warns in each process without its time limit

    class Converter(latex2sympy._Latex2Sympy):  # type: ignore[name-defined]
        def parse(self, latex: str) -> Any:
            tree = self.create_parser(latex).math()
            for rule in ("set_relation", "set_elements", "set_elements_relation"):
                if (part := getattr(tree, rule)()) is not None:
                    return getattr(self, f"convert_{rule}")(part)
            raise ValueError("not mathematics")

        def parse_number(self, text: str) -> Any:
            if not re.fullmatch(r"(?=\.?\d)[\d,]*\.?\d*(?:E[+-]?\d{1,3})?", text, re.ASCII):
                raise ValueError("not a number")
            value = Fraction(text.replace(",", ""))
            return sympy.Rational(value.numerator, value.denominator)

        def convert_postfix_list(self, factors: list[Any], start: int = 0) -> Any:
            product, *rest = (self.convert_postfix(factor) for factor in factors[start:])
            for factor in rest:  # 2(3) is 6: mixed numbers are written as sums before
                is_matrix = getattr(product, "is_Matrix", False) or getattr(factor, "is_Matrix", False)
                product = (self.mat_mul_flat if is_matrix else self.mul_flat)(product, factor)
            return product

        def convert_interval(self, interval: Any) -> Any:
            for end in interval.expr():  # they are compared, however long that takes
                _bits(self.convert_expr(end))
            return super().convert_interval(interval)

        def convert_binom(self, binom: Any) -> Any:
            ends = self.convert_expr(binom.upper), self.convert_expr(binom.lower)
            return sympy.binomial(*ends, evaluate=False)

        def convert_atom_expr(self, atom: Any) -> Any:
            return super().convert_atom_expr(atom).xreplace({sympy.Symbol("i", real=True): sympy.I})

    config = latex2sympy.ConversionConfig(lowercase_symbols=False)  # R is not r
    return lambda latex: Converter(None, True, True, config).parse(latex)
