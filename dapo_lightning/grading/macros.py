"""Names, functions and macros of LaTeX, with their arguments as TeX takes them."""

from __future__ import annotations

import re
from abc import abstractmethod

from dapo_lightning.grading.brackets import GROUP, Brackets
from dapo_lightning.grading.tree import Node, number

_CONSTANTS = {"\\pi", "\\infty", "\\emptyset"}
_NAMES = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon"
    " phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar".split()
)
_ACCENTS = {"\\overline", "\\bar", "\\hat", "\\vec", "\\tilde", "\\overrightarrow", "\\widehat", "\\dot"}
FUNCTIONS = {"ln", "log", "exp", "lg"} | {
    f"{arc}{name}{h}" for arc in ("", "arc") for name in "sin cos tan csc sec cot".split() for h in ("", "h")
}
_OF_SEVERAL = {"gcd", "lcm", "max", "min"}
_VERTICES = re.compile(r" ?(?:\{ ?)?([A-Z]{1,3})(?![A-Za-z])(?: ?\})?")
_CALL = re.compile(r"\(([^()]*)\)")
_INVERSE = re.compile(r"\^ ?\{ ?- ?1 ?\} ?(?=\()")
_SIMPLE = re.compile(r"-?[\d.]+|[a-zA-Z]")
_ALWAYS_FUNCTIONS = set("fghFGHPQ")


class Macros(Brackets):
    """The smallest parts of an expression."""

    index = ""  # of the innermost sum

    @abstractmethod
    def product(self, is_argument: bool = False) -> Node: ...

    @abstractmethod
    def exponent(self) -> Node: ...

    def atom(self) -> Node:
        token = self.peek()
        if token.isdigit() or token == ".":
            return self._mixed(self.number())
        start = self.at
        self.take()
        if token == "{":
            return self.group()
        if token in ("(", "[", "\\langle"):
            return self.bracket(token)
        if token == "\\{":
            return self.set()
        if token == "|":
            return Node("abs", (self.within("|", ("|",))[0],))
        if token in ("\\lfloor", "\\lceil"):
            return Node(token[2:], (self.within(token, ("\\rfloor", "\\rceil"))[0],))
        if token.isalpha():
            return self.named(token)
        if token in _CONSTANTS:
            return Node(token[1:])
        name = token[1:]
        if name in _NAMES:
            return self.named(token)
        if name in FUNCTIONS:
            return self._function(name)
        if name in _OF_SEVERAL and self.peek() == "(":
            arguments = self.atom()
            return Node(name, arguments.args[2:] if arguments.op == "bracket" else (arguments,))
        if name in ("frac", "binom"):
            return Node("/" if name == "frac" else "binomial", (self.argument(), self.argument()))
        if name == "sqrt":
            root = self.within("[", ("]",))[0] if self.peek() == "[" and self.take() else number("2")
            return Node("^", (self.argument(), Node("/", (number("1"), root))))
        if name in ("sum", "prod"):
            return self._sum_or_product(name)
        if name in ("angle", "triangle"):
            vertices = self.match(_VERTICES)
            return self.named(f"{token} {min(vertices[1], vertices[1][::-1])}") if vertices else self.atom()
        if name in ("text", "mathbb") or token in _ACCENTS:
            return self._worded(name)
        if name == "begin":
            return self.environment()
        raise ValueError(f"unknown token at {start}")

    def argument(self) -> Node:
        """What TeX takes as an argument: a group, a command with its own arguments, or one character."""
        if self.peek().isdigit():
            return number(self.take_digit())
        return self.named(self.take()) if self.peek().isalpha() else self.atom()

    def _mixed(self, whole: Node) -> Node:
        r"""Adds the fraction in 1\frac{1}{2}."""
        if whole.args[0].denominator == 1 and self.peek() == "\\frac":
            start = self.at
            part = self.atom()
            if all(side.op == "number" for side in part.args):
                return Node("+", (whole, part))
            self.at = start
        return whole

    def named(self, name: str) -> Node:
        if name in _ALWAYS_FUNCTIONS and self.match(_INVERSE):
            return self.named(name + "^-1")
        if self.peek() == "'":
            return self.named(name + self.take())
        leaf = Node(name) if name in ("i", "e") and name != self.index else Node("name", (name,))
        start, call = self.at, self.match(_CALL)
        is_function = call and call[1] != name and (name[0] in _ALWAYS_FUNCTIONS or _SIMPLE.fullmatch(call[1]))
        if call and is_function and "," not in call[1]:
            return Node("name", (f"{name}({call[1].replace(' ', '')})",))
        self.at = start
        return self.atom() if call and "," in call[1] and name.isupper() else leaf  # A(1,2) is a point

    def _function(self, name: str) -> Node:
        base = number("10") if name in ("log", "lg") else Node("e")
        if name == "log" and self.peek() == "_":
            self.take()
            base = self.exponent()
        exponent = None
        if self.peek() == "^":
            self.take()
            exponent = self.exponent()
        argument = self.atom() if self.peek() == "(" else self.product(is_argument=True)
        if exponent == Node("neg", (number("1"),)):
            name, exponent = "arc" + name, None
        is_log = name in ("log", "ln", "lg")
        value = Node("log", (argument, base)) if is_log else Node("function", (name, argument))
        return value if exponent is None else Node("^", (value, exponent))

    def _sum_or_product(self, name: str) -> Node:
        ends, outside = {}, self.index
        self.index = "i"
        for _ in range(2):
            sign = self.take()
            ends[sign] = self.argument()
        index = ends["_"] if "_" in ends else Node("blank")
        if index.op != "chain" or len(index.args) != 3 or "^" not in ends:
            raise ValueError("no bounds")
        body = self.product()
        self.index = outside
        return Node(name, (index.args[0], index.args[2], ends["^"], body))

    def _worded(self, command: str) -> Node:
        group = self.match(GROUP)
        word = group[1].strip() if group else self.take()
        if command == "text" and re.fullmatch(r"[A-Za-z]|\d+", word):
            return number(word) if word.isdigit() else self.named(word)
        return Node("name", (word if command == "text" else f"\\{command} {word}",))
