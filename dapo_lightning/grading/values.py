"""The value of an expression at a point. Nothing is ever expanded, simplified or solved."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from mpmath.ctx_mp import MPContext

from dapo_lightning.grading.tree import Node, has, names

MP = MPContext()  # mpmath's global context may have been changed by other code
MP.dps = 220
TINY = MP.mpf(10) ** -200
_MAX_BITS = 200_000  # of an exact number
_MAX_TERMS = 500  # of a sum
_MAX_TERMS_OF_SERIES = 750

Point = dict[str, Any]


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
    if op not in _OPERATIONS or (op in ("gcd", "lcm") and names(node)):  # at a few points, too many of them are equal
        raise ValueError(f"{op} has no value")
    return _OPERATIONS[op](is_real, *(value(part, point, is_real) for part in args))


def mpf(x: Any) -> Any:
    return MP.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x


def _both(operation: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def apply(_: bool, first: Any, *others: Any) -> Any:
        for other in others:
            if isinstance(first, Fraction) and isinstance(other, Fraction):
                first = _bounded(operation(first, other))
            else:
                first = operation(mpf(first), mpf(other))
        return first

    return apply


def _bounded(x: Fraction) -> Any:
    """Long fractions are rounded, because reducing them takes long; long integers stay as they are, up to a bound."""
    bits = max(x.numerator.bit_length(), x.denominator.bit_length())
    if bits > _MAX_BITS:
        raise OverflowError("too many digits")
    return x if bits < 4000 or x.denominator == 1 else mpf(x)


def _power(is_real: bool, base: Any, exponent: Any) -> Any:
    if base == 0 and (isinstance(exponent, Fraction) is False or exponent <= 0):
        raise ValueError("a power of zero")
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits > _MAX_BITS and base not in (0, 1, -1):
            raise OverflowError("too many digits")
        return _bounded(Fraction(base ** int(exponent)))
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
    return MP.log(mpf(x)) / MP.log(mpf(base))


def _factorial(_: bool, x: Any) -> Any:
    if isinstance(x, Fraction) and x.denominator == 1 and 0 <= x <= 10_000:
        return Fraction(math.factorial(int(x)))
    if is_complex(x) or x <= 0:
        raise ValueError("no factorial")
    if x > 10_000:
        raise OverflowError("too large a factorial")
    return MP.gamma(mpf(x) + 1)


def _binomial(is_real: bool, n: Any, k: Any) -> Any:
    if isinstance(n, Fraction) and isinstance(k, Fraction) and n.denominator == k.denominator == 1 and n >= k >= 0:
        if n > 20_000:
            raise OverflowError("too large a binomial coefficient")
        return Fraction(math.comb(int(n), int(k)))
    return MP.binomial(mpf(n), mpf(k))


def _function(name: str, x: Any, is_real: bool) -> Any:
    short = name.replace("arc", "a")
    x = mpf(x)
    if abs(x) > 10**6:
        raise OverflowError("too large an argument")
    if is_real and short in ("asin", "acos") and abs(x) > 1:
        raise ValueError("not the sine of a real angle")
    return getattr(MP, short)(x)


def is_complex(x: Any) -> bool:
    return isinstance(x, MP.mpc) and bool(x.imag)


def _sum_or_product(node: Node, point: Point, is_real: bool) -> Any:
    index, low, high, term = node.args
    if has(term, "sum", "prod"):
        raise OverflowError("too many terms")
    start, end = (value(bound, point, is_real) for bound in (low, high))
    if end == MP.inf and node.op == "sum" and isinstance(start, Fraction) and start.denominator == 1:
        return _series(start, lambda n: value(term, {**point, index.args[0]: n}, is_real))
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


def _series(start: Fraction, term: Callable[[Fraction], Any]) -> Any:
    """Adds the terms of an infinite sum that shrink about as fast as 2^-n or faster, to 200 digits. Other sums have no
    value here: at this precision, a sum such as that of 1/n^2 takes too long."""
    total, sizes = MP.mpf(0), list[Any]()
    for n in range(_MAX_TERMS_OF_SERIES):
        x = mpf(term(start + n))
        total += x
        sizes.append(abs(x))
        if n >= 40 and max(sizes[-20:]) > max(sizes[-40:-20]) / 1000:
            break
        if n >= 40 and max(sizes[-20:]) < TINY / 1000:
            return total
    raise ValueError("a sum that converges slowly, or not at all")


def _rounded(name: str) -> Callable[..., Any]:
    return lambda _, x: Fraction(int(getattr(MP, name)(mpf(x))))


def _of_integers(function: Callable[..., int]) -> Callable[..., Any]:
    def apply(_: bool, *xs: Any) -> Any:
        if not all(isinstance(x, Fraction) and x.denominator == 1 for x in xs):
            raise ValueError("not a whole number")
        return _bounded(Fraction(function(*map(int, xs))))

    return apply


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
FAILURES = (ValueError, ZeroDivisionError, KeyError, TypeError)
