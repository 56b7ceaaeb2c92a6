"""Compares relations in one variable, and sets of real numbers, by the numbers at which their truth can change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from typing import Any

from dapo_lightning.grading.points import difference
from dapo_lightning.grading.precision import FAILURES, MP, is_complex, mpf
from dapo_lightning.grading.tree import Node, has
from dapo_lightning.grading.values import value

_ZERO = MP.mpf(10) ** -80  # at a root that was found numerically
_MAX_ROOTS = 20
_MAX_CHANGES = 60
_FAR = [Fraction(20 * 3**n, 2**n) for n in range(1, 30)]
_GRID = [*(-x for x in reversed(_FAR)), *(Fraction(2 * n + 1, 7) for n in range(-70, 70)), *_FAR]
_PROBES = [*map(Fraction, range(-6, 7)), Fraction(1, 2), Fraction(-7, 2), Fraction(-1000), Fraction(1000), MP.sqrt(2)]
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
    except FAILURES:
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
    gap = mpf(x) - mpf(y)
    return 0 if abs(gap) < _ZERO else gap


def same_set(first: Node, second: Node, variable: str) -> tuple[bool, bool]:
    """Compares two formulas in `variable`, or sets of real numbers.

    Returns:
        (whether both hold for the same numbers, whether they hold for any).
    """
    changes = sorted({c for f in (first, second) for c in _changes(f, variable)}, key=mpf)
    if len(changes) > _MAX_CHANGES:
        raise OverflowError("too many bounds")
    where = [*changes, *((mpf(a) + mpf(b)) / 2 for a, b in pairwise(changes)), *_PROBES]
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
        yield from (x for x in ends if isinstance(x, Fraction) or MP.isfinite(x))
    elif op == "builder":
        yield from _changes(args[1], args[0].args[0])
    elif op in (",", "and", "or", "cup", "cap", "setminus"):
        for part in args:
            yield from _changes(part, variable)


def _roots(gap: Node, variable: str) -> Iterator[Any]:
    def at(x: Any) -> Any:
        try:
            return value(gap, {variable: x})
        except (*FAILURES, OverflowError):
            return None

    if has(gap, "sum", "prod", "progression"):
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
        if y is None or z is None or is_complex(y) or is_complex(z) or not (y < 0 < z or z < 0 < y):
            continue
        if (found := found + 1) > _MAX_ROOTS:
            return
        middle = a - y * (b - a) / (z - y) if isinstance(y, Fraction) and isinstance(z, Fraction) else None
        if middle is not None and at(middle) == 0:
            yield middle
        else:
            with suppress(*FAILURES):
                yield MP.findroot(lambda x: mpf(at(x)), (mpf(a), mpf(b)), solver="anderson", verify=False)
