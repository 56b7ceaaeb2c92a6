"""A bound on the work of a grade. It is independent of the speed of the machine, as grades must be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_MOST = 500_000  # microseconds of one core, roughly; ordinary answers take less than a tenth
_LEFT: ContextVar[list[float]] = ContextVar("left")


@contextmanager
def limited_work() -> Iterator[None]:
    """Within the context, `charge` allows a fixed amount of work."""
    token = _LEFT.set([_MOST])
    try:
        yield
    finally:
        _LEFT.reset(token)


def charge(microseconds: float) -> None:
    """Accounts for an operation.

    Raises:
        OverflowError: if no work is left.
    """
    left = _LEFT.get(None)
    if left is not None:
        left[0] -= microseconds
        if left[0] < 0:
            raise OverflowError("too much work")
