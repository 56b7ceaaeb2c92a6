"""Values of trees, and whether two trees have the same: rational numbers exactly, all else to 200 digits.

Expressions with variables are compared at fixed points, and sets of real numbers where membership can change and
between; so nothing is ever simplified or solved, and the time of a comparison depends little on what is compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any
from zlib import crc32

from mpmath.ctx_mp import MPContext

from dapo_lightning.grading.latex import Node

_MP = MPContext()  # not the one that other code may have set
_MP.dps = 220
_TINY = _MP.mpf(10) ** -200
_ZERO = _MP.mpf(10) ** -80  # at a root that was found numerically
_MAX_BITS = 200_000  # of an exact number
_MAX_TERMS = 500  # of a sum
_MAX_ROOTS = 20
_MAX_CHANGES = 60
_FAR = [Fraction(20 * 3**n, 2**n) for n in range(1, 30)]
_GRID = [*(-x for x in reversed(_FAR)), *(Fraction(2 * n + 1, 7) for n in range(-70, 70)), *_FAR]
_PROBES = [*map(Fraction, range(-6, 7)), Fraction(1, 2), Fraction(-7, 2), Fraction(-1000), Fraction(1000), _MP.sqrt(2)]

Point = dict[str, Any]


@lru_cache(4096)
def names(node: Node) -> frozenset[str]:
    """The free variables of a tree."""
    if node.op == "name":
        return frozenset(node.args)
    found = frozenset(name for part in node.args if isinstance(part, Node) for name in names(part))
    return found - names(node.args[0]) if node.op in ("sum", "prod", "builder") else found


def has(node: Any, *ops: str) -> bool:
    """Whether one of these operations occurs in a tree."""
    return isinstance(node, Node) and (node.op in ops or any(has(part, *ops) for part in node.args))


def value(node: Node, point: Point, is_real: bool = True) -> Any:
    """Returns the value: a Fraction if it is rational and that is known, otherwise a number of mpmath.

    Raises:
        ValueError: if there is none, or, with `is_real`, none on the way that is real; ZeroDivisionError likewise.
        OverflowError: if it is too large.
    """
    op, args = node
    if op == "number":
        return args[0]
    if op == "name":
        return point[args[0]]
    if op in ("sum", "prod"):
        return _sum_or_product(node, point, is_real)
    if op == "function":
        return _function(args[0], value(args[1], point, is_real), is_real)
    if op not in _OPERATIONS:
        raise ValueError(f"{op} has no value")
    return _OPERATIONS[op](is_real, *(value(part, point, is_real) for part in args))


def _mpf(x: Any) -> Any:
    return _MP.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x


def _both(operation: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def apply(_: bool, first: Any, *others: Any) -> Any:
        for other in others:
            if isinstance(first, Fraction) and isinstance(other, Fraction):
                first = _bounded(operation(first, other))
            else:
                first = operation(_mpf(first), _mpf(other))
        return first

    return apply


def _bounded(x: Fraction) -> Any:
    """Long fractions are rounded, because reducing them takes long; long integers stay as they are, up to a bound."""
    bits = max(x.numerator.bit_length(), x.denominator.bit_length())
    if bits > _MAX_BITS:
        raise OverflowError("too many digits")
    return x if bits < 4000 or x.denominator == 1 else _mpf(x)


def _power(is_real: bool, base: Any, exponent: Any) -> Any:
    if base == 0 and (isinstance(exponent, Fraction) is False or exponent <= 0):
        raise ValueError("a power of zero")
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits > _MAX_BITS and base not in (0, 1, -1):
            raise OverflowError("too many digits")
        return _bounded(Fraction(base ** int(exponent)))
    x, y = _mpf(base), _mpf(exponent)
    if base != 0 and abs(_MP.log(x) * y) > 10**6:
        raise OverflowError("too large")
    if is_real and not _is_complex(x) and x < 0:
        if not isinstance(exponent, Fraction) or exponent.denominator % 2 == 0:
            raise ValueError("an even root of a negative number")
        return (-1) ** exponent.numerator * (-x) ** y  # the real root
    return x**y


def _log(is_real: bool, x: Any, base: Any) -> Any:
    if x == 0 or (is_real and not _is_complex(x) and x < 0):
        raise ValueError("a logarithm of no positive number")
    return _MP.log(_mpf(x)) / _MP.log(_mpf(base))


def _factorial(_: bool, x: Any) -> Any:
    if isinstance(x, Fraction) and x.denominator == 1 and 0 <= x <= 10_000:
        return Fraction(math.factorial(int(x)))
    if _is_complex(x) or x <= 0:
        raise ValueError("no factorial")
    if x > 10_000:
        raise OverflowError("too large a factorial")
    return _MP.gamma(_mpf(x) + 1)


def _binomial(is_real: bool, n: Any, k: Any) -> Any:
    if isinstance(n, Fraction) and isinstance(k, Fraction) and n.denominator == k.denominator == 1 and n >= k >= 0:
        if n > 20_000:
            raise OverflowError("too large a binomial coefficient")
        return Fraction(math.comb(int(n), int(k)))
    return _MP.binomial(_mpf(n), _mpf(k))


def _function(name: str, x: Any, is_real: bool) -> Any:
    short = name.replace("arc", "a")
    x = _mpf(x)
    if abs(x) > 10**6:
        raise OverflowError("too large an argument")
    if is_real and short in ("asin", "acos") and abs(x) > 1:
        raise ValueError("not the sine of a real angle")
    return getattr(_MP, short)(x)


def _is_complex(x: Any) -> bool:
    return isinstance(x, _MP.mpc) and bool(x.imag)


def _sum_or_product(node: Node, point: Point, is_real: bool) -> Any:
    index, low, high, term = node.args
    if has(term, "sum", "prod"):
        raise OverflowError("too many terms")
    start, end = (value(bound, point, is_real) for bound in (low, high))
    if (
        not isinstance(start, Fraction)
        or not isinstance(end, Fraction)
        or (start.denominator, end.denominator) != (1, 1)
    ):
        raise ValueError("no whole bounds")
    if end - start > _MAX_TERMS:
        raise OverflowError("too many terms")
    total = Fraction(node.op == "prod")
    combine = _OPERATIONS["+" if node.op == "sum" else "*"]
    for n in range(int(start), int(end) + 1):
        total = combine(is_real, total, value(term, {**point, index.args[0]: Fraction(n)}, is_real))
    return total


def _rounded(name: str) -> Callable[..., Any]:
    return lambda _, x: Fraction(int(getattr(_MP, name)(_mpf(x))))


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": _both(lambda x, y: x + y),
    "*": _both(lambda x, y: x * y),
    "/": _both(lambda x, y: x / y),
    "neg": lambda _, x: -x,
    "^": _power,
    "abs": lambda _, x: abs(x),
    "log": _log,
    "factorial": _factorial,
    "binomial": _binomial,
    "degree": lambda _, x: _mpf(x) * _MP.pi / 180,
    "floor": _rounded("floor"),
    "ceil": _rounded("ceil"),
    "pi": lambda _: +_MP.pi,
    "e": lambda _: +_MP.e,
    "i": lambda _: _MP.j,
    "infty": lambda _: _MP.inf,
}
_FAILURES = (ValueError, ZeroDivisionError, KeyError, TypeError)


def close(x: Any, y: Any) -> bool:
    """Whether two numbers are the same, to 200 digits unless they are rational."""
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    x, y = _mpf(x), _mpf(y)
    if x == y or not (_MP.isfinite(x) and _MP.isfinite(y)):
        return bool(x == y)
    return bool(abs(x - y) <= _TINY * max(abs(x), abs(y), 1 if min(abs(x), abs(y)) < _TINY else 0))


def points(variables: frozenset[str]) -> Iterator[Point]:
    """Fixed points: around 1, negative, whole, and larger ones; equal names have equal values."""
    ranges = [(0, 1, 64), (1, 2, 64), (-2, 2, 64), (2, 6, 1), (3, 9, 1), (3, 5, 32)]
    for turn, (low, width, grain) in enumerate(ranges if variables else ranges[:1]):
        yield {
            name: low + Fraction(crc32(f"{turn}{name}".encode()) % (width * grain) or 1, grain) for name in variables
        }


def same_value(first: Node, second: Node) -> bool:
    """Whether two expressions have the same value wherever both have one."""
    variables = names(first) | names(second)
    for is_real in (True, False):
        known = list(_values((first, second), points(variables), is_real))
        if known:
            return all(close(x, y) for x, y in known)
    return False


def exceeds_one(node: Node) -> bool:
    """Whether this is a number of at least 1."""
    return any(not _is_complex(x) and x >= 1 for (x,) in _values((node,), iter([{}]), True))


def number_or_none(node: Node) -> str | None:
    """Writes the value at one point, to 100 digits unless it is rational; None if there is none."""
    try:
        x = value(node, next(points(names(node))), is_real=False)
    except (*_FAILURES, OverflowError):
        return None
    if isinstance(x, Fraction):
        return f"{x.numerator:x}/{x.denominator:x}" if x.denominator > 1 else f"{x.numerator:x}"
    return str(_MP.nstr(_MP.chop(x, _TINY), 100))


def _values(nodes: tuple[Node, ...], where: Iterator[Point], is_real: bool) -> Iterator[list[Any]]:
    for point in where:
        try:
            yield [value(node, point, is_real) for node in nodes]
        except _FAILURES:
            continue


def ratio(first: Node, second: Node) -> Any:
    """The constant by which two expressions differ as factors; None if there is none, or it is 0."""
    known = [(x, y) for x, y in _values((first, second), points(names(first) | names(second)), True) if x and y]
    if len(known) < 2 or not names(first):
        return None
    (x, y), *others = known
    return _mpf(x) / _mpf(y) if all(close(_mpf(x) * _mpf(v), _mpf(u) * _mpf(y)) for u, v in others) else None


def difference(left: Node, right: Node) -> Node:
    return Node("+", (left, Node("neg", (right,))))


_SIGNS: dict[str, Callable[[Any], bool]] = {
    "<": lambda d: d < 0,
    ">": lambda d: d > 0,
    "<=": lambda d: d <= 0,
    ">=": lambda d: d >= 0,
    "=": lambda d: d == 0,
    "!=": lambda d: d != 0,
}


def links(chain: Node) -> list[tuple[Node, str, Node]]:
    """The relations (left, sign, right) of a chain."""
    sides, signs = chain.args[::2], chain.args[1::2]
    return list(zip(sides[:-1], signs, sides[1:], strict=True))


def holds(formula: Node, x: Any, variable: str) -> bool:
    """Whether relations hold where `variable` is x, or a set contains the number x."""
    op, args = formula
    if op in ("or", "cup"):
        return any(holds(part, x, variable) for part in args)
    if op in (",", "and", "cap"):
        return all(holds(part, x, variable) for part in args)
    if op == "setminus":
        return holds(args[0], x, variable) and not holds(args[1], x, variable)
    if op == "builder":
        return holds(args[1], x, args[0].args[0])
    try:
        if op == "chain":
            return all(_related(*link, x, variable) for link in links(formula))
        if op == "bracket":
            above, below = (_gap(x, value(args[2], {})), _gap(value(args[3], {}), x))
            return (above > 0 or (above == 0 and args[0] == "[")) and (below > 0 or (below == 0 and args[1] == "]"))
        if op == "set":
            return any(_gap(x, value(item, {})) == 0 for item in args)
        if op == "name" and args[0] in _NUMBER_SETS:
            return _NUMBER_SETS[args[0]](x)
    except _FAILURES:
        return False
    if op == "emptyset":
        return False
    raise TypeError("not a formula")


_NUMBER_SETS: dict[str, Callable[[Any], bool]] = {
    "\\mathbb R": lambda x: True,
    "\\mathbb Q": lambda x: isinstance(x, Fraction),
    "\\mathbb Z": lambda x: isinstance(x, Fraction) and x.denominator == 1,
    "\\mathbb N": lambda x: isinstance(x, Fraction) and x.denominator == 1 and x > 0,
}


def _related(left: Node, sign: str, right: Node, x: Any, variable: str) -> bool:
    point = {variable: x}
    if sign == "in":
        return holds(right, value(left, point), variable)
    return _SIGNS[sign](_gap(value(left, point), value(right, point)))


def _gap(x: Any, y: Any) -> Any:
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x - y
    gap = _mpf(x) - _mpf(y)
    return 0 if abs(gap) < _ZERO else gap


def same_set(first: Node, second: Node, variable: str) -> tuple[bool, bool]:
    """Compares two formulas in `variable`, or sets of real numbers.

    Returns:
        (whether both hold for the same numbers, whether they hold for any).
    """
    changes = sorted({c for f in (first, second) for c in _changes(f, variable)}, key=_mpf)
    if len(changes) > _MAX_CHANGES:
        raise OverflowError("too many bounds")
    where = [*changes, *((_mpf(a) + _mpf(b)) / 2 for a, b in pairwise(changes)), *_PROBES]
    if changes:
        where += [changes[0] - 1, changes[-1] + 1]
    verdicts = [[holds(f, x, variable) for f in (first, second)] for x in where]
    return all(a == b for a, b in verdicts), any(a and b for a, b in verdicts)


def _changes(formula: Node, variable: str) -> Iterator[Any]:
    """The finite numbers at which the truth of a formula can change."""
    op, args = formula
    if op == "chain":
        for left, sign, right in links(formula):
            yield from _changes(right, variable) if sign == "in" else _roots(difference(left, right), variable)
    elif op in ("bracket", "set"):
        ends = (value(end, {}) for end in (args[2:] if op == "bracket" else args))
        yield from (x for x in ends if isinstance(x, Fraction) or _MP.isfinite(x))
    elif op == "builder":
        yield from _changes(args[1], args[0].args[0])
    elif op in (",", "and", "or", "cup", "cap", "setminus"):
        for part in args:
            yield from _changes(part, variable)


def _roots(gap: Node, variable: str) -> Iterator[Any]:
    def at(x: Any) -> Any:
        try:
            return value(gap, {variable: x})
        except (*_FAILURES, OverflowError):
            return None

    if has(gap, "sum", "prod"):
        raise OverflowError("too many terms")
    first, second, third = (at(Fraction(n)) for n in range(3))
    if all(isinstance(y, Fraction) for y in (first, second, third)) and third - second == second - first:
        if first != second:  # a straight line
            yield -first / (second - first)
        return
    values, found = [(x, at(x)) for x in _GRID], 0
    for (a, y), (b, z) in pairwise(values):
        if y == 0 and (found := found + 1) < _MAX_ROOTS:
            yield a
        if y is None or z is None or _is_complex(y) or _is_complex(z) or not (y < 0 < z or z < 0 < y):
            continue
        if (found := found + 1) > _MAX_ROOTS:
            return
        middle = a - y * (b - a) / (z - y) if isinstance(y, Fraction) and isinstance(z, Fraction) else None
        if middle is not None and at(middle) == 0:
            yield middle
        else:
            with suppress(*_FAILURES):
                yield _MP.findroot(lambda x: _mpf(at(x)), (_mpf(a), _mpf(b)), solver="anderson", verify=False)
