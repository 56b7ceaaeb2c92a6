"""Compares expressions by their values at fixed points, to 200 digits unless they are rational."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Any
from zlib import crc32

from dapo_lightning.grading.precision import FAILURES, MP, TINY, is_complex, mpf
from dapo_lightning.grading.tree import Node, has, names, walk
from dapo_lightning.grading.values import Point, value


def close(x: Any, y: Any) -> bool:
    """Whether two numbers are the same, to 200 digits unless they are rational."""
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    x, y = mpf(x), mpf(y)
    if x == y or not (MP.isfinite(x) and MP.isfinite(y)):
        return bool(x == y)
    return bool(abs(x - y) <= TINY * max(abs(x), abs(y), 1 if min(abs(x), abs(y)) < TINY else 0))


_RANGES = [(0, 1, 64), (1, 2, 64), (-2, 2, 64), (2, 6, 1), (3, 9, 1), (3, 5, 32)]
_WHOLE = [(5, 11, 1), (8, 15, 1), (6, 9, 1)]  # for sums whose bounds are variables
_SUMS = ("sum", "prod", "progression")


def points(variables: frozenset[str], is_whole: bool = False) -> Iterator[Point]:
    """Fixed points: around 1, negative, whole, and larger ones, more of them whole with `is_whole`; equal names have
    equal values."""
    ranges = _RANGES + (_WHOLE if is_whole else [])
    for turn, (low, width, grain) in enumerate(ranges if variables else ranges[:1]):
        yield {
            name: low + Fraction(crc32(f"{turn}{name}".encode()) % (width * grain) or 1, grain) for name in variables
        }


def same_value(first: Node, second: Node) -> bool:
    """Whether two expressions have the same value wherever both have one."""
    variables = names(first) | names(second)
    for is_real in (True, False):
        known = list(_values((first, second), points(variables, has(first, *_SUMS) or has(second, *_SUMS)), is_real))
        if known:
            return all(close(x, y) for x, y in known)
    return False


def exceeds_one(node: Node) -> bool:
    """Whether this is a number of at least 1."""
    with suppress(OverflowError):
        return any(not is_complex(x) and x >= 1 for (x,) in _values((node,), iter([{}]), True))
    return False


def is_determined(node: Node) -> bool:
    """Whether all dots in a tree stand for something."""
    with suppress(OverflowError):
        return all(same_value(part, part) for part in walk(node) if part.op == "progression")
    return False


def number_or_none(node: Node) -> str | None:
    """Writes the value at one point, to 100 digits unless it is rational; None if there is none."""
    try:
        x = value(node, next(points(names(node))), is_real=False)
    except (*FAILURES, OverflowError):
        return None
    if isinstance(x, Fraction):
        return f"{x.numerator:x}/{x.denominator:x}" if x.denominator > 1 else f"{x.numerator:x}"
    return str(MP.nstr(MP.chop(x, TINY), 100))


def _values(nodes: tuple[Node, ...], where: Iterator[Point], is_real: bool) -> Iterator[list[Any]]:
    for point in where:
        try:
            yield [value(node, point, is_real) for node in nodes]
        except FAILURES:
            continue


def ratio(first: Node, second: Node) -> Any:
    """The constant by which two expressions differ as factors; None if there is none, or it is 0."""
    known = [(x, y) for x, y in _values((first, second), points(names(first) | names(second)), True) if x and y]
    if len(known) < 2 or not names(first):
        return None
    (x, y), *others = known
    return mpf(x) / mpf(y) if all(close(mpf(x) * mpf(v), mpf(u) * mpf(y)) for u, v in others) else None


def difference(left: Node, right: Node) -> Node:
    return Node("+", (left, Node("neg", (right,))))
