r"""TeX's tokens, one after the other, and numbers, which consist of several."""

from __future__ import annotations

import re
from fractions import Fraction

from dapo_lightning.grading.tree import Node
from dapo_lightning.grading.tree import number as leaf

_TOKEN = re.compile(r"\s*(\\(?:[A-Za-z]+|.)|\d+|\.\.\.|.|$)", re.DOTALL)
_NUMBER = re.compile(
    r"\d{1,3}(?:[ ,]\d{3})+(?![\d,])(?:\.\d*)?|\d{1,3}(?:\.\d{3}){2,}(?![.\d])|\d+(?:\.(?!\.\.)\d*)?|\.\d+"
)
_EXPONENT = re.compile(r"[eE]([+-]?\d{1,4})(?!\d)")
_REPEATED = re.compile(
    r"(\d*)\.(\d*)\\(?:overline|bar|dot) ?(?:\{(\d+)\}|(\d))|(\d*)\.(\d*?)(?:(\d)\7{2,}|(\d{2,}?)\8+)\.\.\."
)
_MIXED = re.compile(r" (\d+) ?/ ?(\d+)")


class Tokens:
    """A text and a position in it.

    Attributes:
        inside: the sign that opened the innermost bracket.
    """

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.inside = ""

    def peek(self) -> str:
        token = _TOKEN.match(self.text, self.at)
        return token[1] if token else ""

    def take(self, expected: str | None = None) -> str:
        token = _TOKEN.match(self.text, self.at)
        if token is None or token[1] == "" or (expected is not None and token[1] != expected):
            raise ValueError(f"no {expected} at {self.at}")
        self.at = token.end()
        return token[1]

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def take_digit(self) -> str:
        self.at = _TOKEN.match(self.text, self.at).start(1) + 1  # type: ignore[union-attr]
        return self.text[self.at - 1]

    def number(self) -> Node:
        """Takes a number, which may have separators, an exponent, a repeated period, or a fraction as in 1 1/2."""
        self.at = _TOKEN.match(self.text, self.at).start(1)  # type: ignore[union-attr]
        if again := self.match(_REPEATED):  # 0.1\overline{6} = (16 - 1) / (100 - 10)
            whole, before = again[1] or again[5] or "", again[2] or again[6] or ""
            period = again[3] or again[4] or again[7] or again[8]
            value = Fraction(int(whole + before + period) - int(whole + before or "0"))
            return Node("number", (value / (10 ** len(before + period) - 10 ** len(before)),))
        digits = self.match(_NUMBER)
        if digits is None:
            raise ValueError("a full stop")
        plain = digits[0].replace(" ", "").replace(",", "")
        if plain.count(".") > 1:  # 1.234.567
            plain = plain.replace(".", "")
        if "," in digits[0] and self.inside in ("(", "[", "\\{"):  # (1,234) is a pair
            self.at -= len(digits[0]) - digits[0].index(",")
            plain = digits[0].partition(",")[0]
        if exponent := self.match(_EXPONENT):
            plain += "e" + exponent[1]
        whole = leaf(plain)
        if plain.isdigit() and (mixed := self.match(_MIXED)):
            return Node("number", (whole.args[0] + Fraction(int(mixed[1]), int(mixed[2])),))
        return whole
