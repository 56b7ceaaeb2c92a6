"""The value of an expression at a point. Nothing is ever expanded, simplified or solved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

from dapo_lightning.grading.precision import MP, is_complex, is_whole, mpf
from dapo_lightning.grading.sums import progression, series, whole_numbers
from dapo_lightning.grading.tree import DOTS, Node, has, names
from dapo_lightning.grading.work import charge

_MAX_BITS = 200_000  # of an exact number
_GCD = 1e-6  # microseconds for each pair of bits of two numbers, of which a common divisor is sought

Point = dict[str, Any]


def value(node: Node, point: Point, is_real: bool = True) -> Any:
    """Returns the value: a Fraction if it is rational and that is known, otherwise a number of mpmath.

    Raises:
        ValueError: if there is none, or, with `is_real`, none on the way that is real; ZeroDivisionError likewise.
        OverflowError: if it is too large, or takes too much work.
    """
    op, args = node
    charge(2)
    if op == "number":
        return args[0]
    if op == "name":
        return point[args[0]]
    if op in ("sum", "prod"):
        return _sum_or_product(node, point, is_real)
    if op == "progression":
        before, after = args[1 : args.index(DOTS)], args[args.index(DOTS) + 1 :]
        known, last = ([value(part, point, is_real) for part in parts] for parts in (before, after))
        return _combined(args[0], progression(args[0], known, last))
    if op == "function":
        return _function(args[0], value(args[1], point, is_real), is_real)
    if op not in _OPERATIONS or (op in ("gcd", "lcm") and names(node)):  # at a few points, too many of them are equal
        raise ValueError(f"{op} has no value")
    return _OPERATIONS[op](is_real, *(value(part, point, is_real) for part in args))


def _both(operation: Callable[[Any, Any], Any], weight: float) -> Callable[..., Any]:
    """An operation on numbers of either kind.

    Args:
        weight: microseconds for each pair of bits of two whole numbers.
    """

    def apply(_: bool, first: Any, *others: Any) -> Any:
        for other in others:
            if isinstance(first, Fraction) and isinstance(other, Fraction):
                charge((weight if is_whole(first, other) else _GCD) * _bits(first) * _bits(other))
                first = _bounded(operation(first, other))
            else:
                first = operation(mpf(first), mpf(other))
        return first

    return apply


def _bits(x: Fraction) -> int:
    return max(x.numerator.bit_length(), x.denominator.bit_length())


def _bounded(x: Fraction) -> Any:
    """Long fractions are rounded, because reducing them takes long; long integers stay as they are, up to a bound."""
    bits = _bits(x)
    if bits > _MAX_BITS:
        raise OverflowError("too many digits")
    return x if bits < 4000 or x.denominator == 1 else mpf(x)


def _power(is_real: bool, base: Any, exponent: Any) -> Any:
    if base == 0 and (isinstance(exponent, Fraction) is False or exponent <= 0):
        raise ValueError("a power of zero")
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = float(abs(exponent) * _bits(base)) if base not in (0, 1, -1) else 1.0
        if bits > _MAX_BITS:
            raise OverflowError("too many digits")
        charge(bits**2 / 2e7)
        return _bounded(Fraction(base ** int(exponent)))
    charge(60)
    x, y = mpf(base), mpf(exponent)
    if base != 0 and abs(MP.log(x) * y) > 10**6:
        raise OverflowError("too large")
    if is_real and not is_complex(x) and x < 0:
        if not isinstance(exponent, Fraction) or exponent.denominator % 2 == 0:
            raise ValueError("an even root of a negative number")
        return (-1) ** exponent.numerator * (-x) ** y  # the real root
    return x**y


def _log(is_real: bool, x: Any, base: Any) -> Any:
    if x == 0 or (is_real and not is_complex(x) and x < 0):
        raise ValueError("a logarithm of no positive number")
    charge(40)
    return MP.log(mpf(x)) / MP.log(mpf(base))


def _factorial(_: bool, x: Any) -> Any:
    if is_whole(x) and 0 <= x <= 10_000:
        charge(float(x) ** 2 / 5e4)
        return Fraction(math.factorial(int(x)))
    if is_complex(x) or x <= 0:
        raise ValueError("no factorial")
    if x > 10_000:
        raise OverflowError("too large a factorial")
    charge(500)
    return MP.gamma(mpf(x) + 1)


def _binomial(is_real: bool, n: Any, k: Any) -> Any:
    if is_whole(n, k) and n >= k >= 0:
        if n > 20_000:
            raise OverflowError("too large a binomial coefficient")
        charge(float(n) ** 2 / 6e4)
        return Fraction(math.comb(int(n), int(k)))
    charge(1500)
    return MP.binomial(mpf(n), mpf(k))


def _function(name: str, x: Any, is_real: bool) -> Any:
    short = name.replace("arc", "a")
    x = mpf(x)
    if abs(x) > 10**6:
        raise OverflowError("too large an argument")
    charge(40)
    if is_real and short in ("asin", "acos") and abs(x) > 1:
        raise ValueError("not the sine of a real angle")
    return getattr(MP, short)(x)


def _sum_or_product(node: Node, point: Point, is_real: bool) -> Any:
    index, low, high, term = node.args
    if has(term, "sum", "prod", "progression"):
        raise OverflowError("too many terms")

    def at(n: Fraction) -> Any:
        return value(term, {**point, index.args[0]: n}, is_real)

    start, end = (value(bound, point, is_real) for bound in (low, high))
    if end == MP.inf and node.op == "sum" and is_whole(start):
        return series(start, at)
    return _combined("+" if node.op == "sum" else "*", map(at, whole_numbers(start, end)))


def _combined(operation: str, terms: Iterable[Any]) -> Any:
    total: Any = Fraction(operation == "*")
    for term in terms:
        total = _OPERATIONS[operation](True, total, term)
    return total


def _rounded(name: str) -> Callable[..., Any]:
    return lambda _, x: Fraction(int(getattr(MP, name)(mpf(x))))


def _of_integers(function: Callable[..., int]) -> Callable[..., Any]:
    def apply(_: bool, *xs: Any) -> Any:
        if not is_whole(*xs):
            raise ValueError("not a whole number")
        return _bounded(Fraction(function(*map(int, xs))))

    return apply


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": _both(lambda x, y: x + y, 0),
    "*": _both(lambda x, y: x * y, 1e-7),
    "/": _both(lambda x, y: x / y, _GCD),
    "neg": lambda _, x: -x,
    "^": _power,
    "abs": lambda _, x: abs(x),
    "log": _log,
    "factorial": _factorial,
    "binomial": _binomial,
    "degree": lambda _, x: mpf(x) * MP.pi / 180,
    "floor": _rounded("floor"),
    "ceil": _rounded("ceil"),
    "pi": lambda _: +MP.pi,
    "e": lambda _: +MP.e,
    "i": lambda _: MP.j,
    "infty": lambda _: MP.inf,
    "gcd": _of_integers(math.gcd),
    "lcm": _of_integers(math.lcm),
    "max": lambda _, *xs: max(xs, key=mpf),
    "min": lambda _, *xs: min(xs, key=mpf),
}
