"""The terms of sums and products: with an index, infinite, or with dots in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from dapo_lightning.grading.precision import MP, TINY, is_whole, mpf
from dapo_lightning.grading.work import charge

_MAX_TERMS = 10_000
_MAX_TERMS_OF_SERIES = 750


def whole_numbers(start: Any, end: Any) -> Iterator[Fraction]:
    """The values of an index.

    Raises:
        ValueError: if the bounds are not whole; OverflowError: if there are too many.
    """
    if not is_whole(start, end):
        raise ValueError("no whole bounds")
    if end - start > _MAX_TERMS:
        raise OverflowError("too many terms")
    return map(Fraction, range(int(start), int(end) + 1))


def series(start: Fraction, term: Callable[[Fraction], Any]) -> Any:
    """Adds the terms of an infinite sum that shrink about as fast as 2^-n or faster, to 200 digits. Other sums have no
    value here: at this precision, a sum such as that of 1/n^2 takes too long.

    Raises:
        ValueError: if they shrink more slowly.
    """
    total, sizes = MP.mpf(0), list[Any]()
    for n in range(_MAX_TERMS_OF_SERIES):
        charge(20)
        x = mpf(term(start + n))
        total += x
        sizes.append(abs(x))
        if n >= 40 and max(sizes[-20:]) > max(sizes[-40:-20]) / 1000:
            break
        if n >= 40 and max(sizes[-20:]) < TINY / 1000:
            return total
    raise ValueError("a sum that converges slowly, or not at all")


def progression(operation: str, before: Sequence[Any], after: Sequence[Any]) -> list[Any]:
    """The terms, or one number with the same value, of an arithmetic or geometric progression, of which those before
    and after the dots are known.

    Two terms before the dots suffice only for consecutive numbers, because 1 + 4 + ... + 100 may be a sum of squares.

    Raises:
        ValueError: if more than one progression has these terms, or none.
    """
    first, second = before[:2]
    if not all(isinstance(x, Fraction) for x in (*before, *after)) or first == second:
        raise ValueError("no progression of rational numbers")
    step, factor = second - first, second / first if first else Fraction(0)
    if not after:
        is_geometric = all(y == factor * x for x, y in pairwise(before))
        if operation == "+" and len(before) > 2 and is_geometric and abs(factor) < 1:
            return [first / (1 - factor)]
        raise ValueError("no limit")
    found = [_terms(before, after, lambda x: x + step, lambda x: x)]
    if factor not in (0, -1):
        found.append(_terms(before, after, lambda x: x * factor, abs))
    (terms,) = (terms for terms in found if terms)
    if len(before) == 2 and len(after) == 1 and (abs(step) != 1 or terms is not found[0]):
        raise ValueError("too few terms")
    return terms


def _terms(
    before: Sequence[Fraction],
    after: Sequence[Fraction],
    successor: Callable[[Fraction], Fraction],
    size: Callable[[Fraction], Fraction],
) -> list[Fraction]:
    """The progression from the first term before the dots to the last one after them; [] if it has other terms."""
    if any(successor(x) != y for part in (before, after) for x, y in pairwise(part)):
        return []
    low, high = sorted((size(before[0]), size(after[-1])))
    terms = [before[0]]
    while terms[-1] != after[-1] and len(terms) < _MAX_TERMS and low <= size(terms[-1]) <= high:
        charge(2 + terms[-1].numerator.bit_length() / 1000)
        terms.append(successor(terms[-1]))
    fits = terms[: len(before)] == list(before) and terms[-len(after) :] == list(after)
    return terms if fits else []
