"""Sums, products and powers, with the precedence and the omitted signs of mathematical texts."""

from __future__ import annotations

from fractions import Fraction

from dapo_lightning.grading.brackets import ENDS, GROUP
from dapo_lightning.grading.macros import FUNCTIONS, Macros
from dapo_lightning.grading.tree import DOTS, Node

RELATIONS = {"=": "=", "<": "<", ">": ">", "\\leq": "<=", "\\geq": ">=", "\\neq": "!=", "\\in": "in",
             "\\approx": "~", "\\equiv": "="}  # fmt: skip
SEPARATORS = {",": ",", ";": ",", "\\\\": ",", "\\land": "and", "\\lor": "or"}
SETS = {"\\cup", "\\cap", "\\setminus", "\\backslash"}
_TIMES = {"*": "*", "\\cdot": "*", "\\times": "*", "/": "/", "\\div": "/", ":": "ratio"}
_SIGNS = ("+", "-", "\\pm", "\\mp")


class Arithmetic(Macros):
    """Operations, from sums down to powers."""

    def sum(self) -> Node:
        terms = [self._term(self.take() if self.peek() in _SIGNS else "+")]
        while (sign := self.peek()) in _SIGNS or sign == "...":
            self.take()
            if sign == "...":
                terms += [DOTS, self._term("+")] if self._starts_factor(self.peek()) else [DOTS]
            elif self.peek() != "...":
                terms.append(self._term(sign))
        if DOTS in terms:
            return self._progression("+", terms)
        return Node("+", tuple(terms)) if len(terms) > 1 else terms[0]

    def _progression(self, operation: str, parts: list[Node]) -> Node:
        """1 + 2 + ... + n, or 1 * 2 * ... * n."""
        if parts.count(DOTS) > 1 or parts.index(DOTS) < 2:
            raise ValueError("how does it go on?")
        return Node("progression", (operation, *parts))

    def _term(self, sign: str) -> Node:
        term = self.product()
        return term if sign == "+" else Node({"-": "neg", "\\pm": "pm", "\\mp": "mp"}[sign], (term,))

    def product(self, is_argument: bool = False) -> Node:
        left = self._power()
        while True:
            token = self.peek()
            if token in _TIMES and not is_argument and not (token == ":" and self.inside == "\\{"):
                self.take()
                if self.peek() == "..." and _TIMES[token] == "*":
                    continue
                if token == ":" and left.op == "ratio":
                    left = Node("ratio", (*left.args, self._power()))
                    continue
                left = Node(_TIMES[token], (left, self._divisor() if token == "/" else self._power()))
            elif self._starts_factor(token) and not (is_argument and token[1:] in FUNCTIONS):
                right = self._power()
                if (token.isdigit() or token == ".") and left.op == "number":
                    raise ValueError("two numbers in a row")
                left = Node("*", (left, right))
            elif token == "..." and (parts := self._dotted_factors(left)):
                return self._progression("*", parts)
            else:
                return left

    def _dotted_factors(self, left: Node) -> list[Node]:
        """The factors before and after dots; [] if no factor follows."""
        start = self.at
        self.take()
        if _TIMES.get(self.peek()) == "*":
            self.take()
        if self._starts_factor(self.peek()):
            return [*_factors(left), DOTS, *_factors(self.product())]
        self.at = start
        return []

    def _divisor(self) -> Node:
        """In t/RC, unlike in 1/2x or a/b c, both letters divide."""
        divisor = self._power()
        is_letter = divisor.op == "name"
        while is_letter and self.text[self.at : self.at + 1].isalpha():
            divisor = Node("*", (divisor, self._power()))
        return divisor

    def _starts_factor(self, token: str) -> bool:
        if token in ("|", "'"):
            return token == "|" and self.inside not in ("|", "\\{")
        return not (token in ENDS or token in RELATIONS or token in SEPARATORS or token in SETS or token in _TIMES
                    or token in _SIGNS or token in ("^", "_", "!", "°", "%", "..."))  # fmt: skip

    def _power(self) -> Node:
        if self.peek() in ("+", "-"):
            sign = self.take()
            return self._power() if sign == "+" else Node("neg", (self._power(),))
        base, is_raised = self.atom(), False
        while (sign := self.peek()) in ("^", "_", "!", "°"):
            self.take()
            if sign == "!":
                base = Node("factorial", (base,))
            elif sign == "°":
                base = Node("degree", (base,))
            elif sign == "_":
                base = self._lowered(base)
            elif is_raised:
                raise ValueError("two exponents, in which order?")
            else:
                base, is_raised = Node("^", (base, self.exponent())), True
        return base

    def _lowered(self, base: Node) -> Node:
        group = self.match(GROUP)
        index = group[1].replace(" ", "") if group else self.take()
        if base.op == "^" and base.args[0].op == "name":
            return Node("^", (self.named(f"{base.args[0].args[0]}_{index}"), base.args[1]))
        if base.op == "name":
            return self.named(f"{base.args[0]}_{index}")
        if base.op == "number" and base.args[0].denominator == 1 and index.isdigit() and 2 <= int(index) <= 36:
            return Node("number", (Fraction(int(str(base.args[0]), int(index))),))
        raise ValueError("an index of what?")

    def exponent(self) -> Node:
        if self.peek() == "-":
            self.take()
            return Node("neg", (self.exponent(),))
        return self.atom() if self.peek().isdigit() else self.argument()  # x^10, though TeX reads x^{1}0


def _factors(node: Node) -> list[Node]:
    return [*_factors(node.args[0]), *_factors(node.args[1])] if node.op == "*" else [node]
