"""Numbers of two kinds: Fractions, which are exact, and mpmath's with 220 digits."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from mpmath.ctx_mp import MPContext

MP = MPContext()  # mpmath's global context may have been changed by other code
MP.dps = 220
TINY = MP.mpf(10) ** -200
FAILURES = (ValueError, ZeroDivisionError, KeyError, TypeError)


def mpf(x: Any) -> Any:
    return MP.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x


def is_complex(x: Any) -> bool:
    return isinstance(x, MP.mpc) and bool(x.imag)


def is_whole(*xs: Any) -> bool:
    return all(isinstance(x, Fraction) and x.denominator == 1 for x in xs)
