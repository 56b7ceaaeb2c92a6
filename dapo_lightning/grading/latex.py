r"""LaTeX -> a tree, by recursive descent over TeX's own tokens, in time linear in the length of the text.

A macro takes its arguments as TeX does: the next token or group, so that \frac1n is 1/n and \sqrt2x is x\sqrt2. Nothing
is worked out here, and no text is ever evaluated as Python.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from dapo_lightning.grading.tokens import Tokens
from dapo_lightning.grading.tree import Node, depth, number

RELATIONS = {"=": "=", "<": "<", ">": ">", "\\leq": "<=", "\\geq": ">=", "\\neq": "!=", "\\in": "in",
             "\\approx": "~", "\\equiv": "="}  # fmt: skip
_SEPARATORS = {",": ",", ";": ",", "\\\\": ",", "\\land": "and", "\\lor": "or"}
_SETS = {"\\cup", "\\cap", "\\setminus", "\\backslash"}
_TIMES = {"*": "*", "\\cdot": "*", "\\times": "*", "/": "/", "\\div": "/", ":": "ratio"}
_ENDS = {")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil", "\\end", "\\over", "\\choose", "\\mid", "&", ""}
_CONSTANTS = {"\\pi", "\\infty", "\\emptyset"}
_NAMES = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon"
    " phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar".split()
)
_ACCENTS = {"\\overline", "\\bar", "\\hat", "\\vec", "\\tilde", "\\overrightarrow", "\\widehat", "\\dot"}
_FUNCTIONS = {"ln", "log", "exp", "lg"} | {
    f"{arc}{name}{h}" for arc in ("", "arc") for name in "sin cos tan csc sec cot".split() for h in ("", "h")
}
_OF_SEVERAL = {"gcd", "lcm", "max", "min"}
_VERTICES = re.compile(r" ?(?:\{ ?)?([A-Z]{1,3})(?![A-Za-z])(?: ?\})?")
_MAX_DEPTH = 100
_GROUP = re.compile(r"\s*\{([^{}]*)\}")
_WORDED = re.compile(r"\\(?:text|begin|end|mathbb)\{[^{}]*\}")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")
_CALL = re.compile(r"\(([^()]*)\)")
_INVERSE = re.compile(r"\^ ?\{ ?- ?1 ?\} ?(?=\()")
_SIMPLE = re.compile(r"-?[\d.]+|[a-zA-Z]")
_ALWAYS_FUNCTIONS = set("fghFGHPQ")


@lru_cache(4096)
def parsed(text: str) -> Node | None:
    """Returns the tree of `text` as `simplified` spells it; None if it is not mathematics."""
    if _PROSE.search(_WORDED.sub("", text)):
        return None
    try:
        reader = _Reader(text)
        tree = reader.listing()
        return tree if reader.peek() == "" and depth(tree) <= _MAX_DEPTH else None
    except (ValueError, RecursionError, ZeroDivisionError):
        return None


class _Reader(Tokens):
    _index = ""  # of the innermost sum

    def listing(self) -> Node:
        """Items between separators; the item itself if there is but one."""
        items, kinds = [self._chain()], {","}
        while self.peek() in _SEPARATORS:
            while self.peek() in _SEPARATORS:  # `, and` is one separator
                kinds.add(_SEPARATORS[self.take()])
            if self.peek() in _ENDS:
                break
            items.append(self._chain())
        kind = "or" if "or" in kinds else "and" if "and" in kinds else ","
        return Node(kind, tuple(items)) if len(items) > 1 else items[0]

    def _chain(self) -> Node:
        sides: list[Any] = [Node("blank") if self.peek() in RELATIONS else self._union()]
        while (sign := self.peek()) in RELATIONS:
            self.take()
            sides += [RELATIONS[sign], self._union()]
        return Node("chain", tuple(sides)) if len(sides) > 1 else sides[0]

    def _union(self) -> Node:
        left = self._sum()
        while (sign := self.peek()) in _SETS:
            self.take()
            left = Node({"\\cup": "cup", "\\cap": "cap"}.get(sign, "setminus"), (left, self._sum()))
        return left

    def _sum(self) -> Node:
        terms = [self._term("+" if self.peek() not in ("+", "-", "\\pm", "\\mp") else self.take())]
        while self.peek() in ("+", "-", "\\pm", "\\mp"):
            terms.append(self._term(self.take()))
        return Node("+", tuple(terms)) if len(terms) > 1 else terms[0]

    def _term(self, sign: str) -> Node:
        term = self._product()
        return term if sign == "+" else Node({"-": "neg", "\\pm": "pm", "\\mp": "mp"}[sign], (term,))

    def _product(self, is_argument: bool = False) -> Node:
        left = self._power()
        while True:
            token = self.peek()
            if token in _TIMES and not is_argument and not (token == ":" and self.inside == "\\{"):
                self.take()
                if token == ":" and left.op == "ratio":
                    left = Node("ratio", (*left.args, self._power()))
                    continue
                left = Node(_TIMES[token], (left, self._divisor() if token == "/" else self._power()))
            elif self._starts_factor(token) and not (is_argument and token[1:] in _FUNCTIONS):
                right = self._power()
                if (token.isdigit() or token == ".") and left.op == "number":
                    raise ValueError("two numbers in a row")
                left = Node("*", (left, right))
            else:
                return left

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
        return not (token in _ENDS or token in RELATIONS or token in _SEPARATORS or token in _SETS or token in _TIMES
                    or token in ("+", "-", "\\pm", "\\mp", "^", "_", "!", "°", "%"))  # fmt: skip

    def _power(self) -> Node:
        if self.peek() in ("+", "-"):
            sign = self.take()
            return self._power() if sign == "+" else Node("neg", (self._power(),))
        base, is_raised = self._atom(), False
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
                base, is_raised = Node("^", (base, self._exponent())), True
        return base

    def _lowered(self, base: Node) -> Node:
        group = self.match(_GROUP)
        index = group[1].replace(" ", "") if group else self.take()
        if base.op == "^" and base.args[0].op == "name":
            return Node("^", (self._named(f"{base.args[0].args[0]}_{index}"), base.args[1]))
        if base.op == "name":
            return self._named(f"{base.args[0]}_{index}")
        if base.op == "number" and base.args[0].denominator == 1 and index.isdigit() and 2 <= int(index) <= 36:
            return Node("number", (Fraction(int(str(base.args[0]), int(index))),))
        raise ValueError("an index of what?")

    def _exponent(self) -> Node:
        if self.peek() == "-":
            self.take()
            return Node("neg", (self._exponent(),))
        return self._atom() if self.peek().isdigit() else self._argument()  # x^10, though TeX reads x^{1}0

    def _argument(self) -> Node:
        """What TeX takes as an argument: a group, a command with its own arguments, or one character."""
        if self.peek().isdigit():
            return number(self.take_digit())
        return self._named(self.take()) if self.peek().isalpha() else self._atom()

    def _within(self, opening: str, closings: tuple[str, ...]) -> tuple[Node, str]:
        outside, self.inside = self.inside, opening
        content = self.listing()
        self.inside = outside
        if self.peek() not in closings:
            raise ValueError("a bracket stays open")
        return content, self.take()

    def _atom(self) -> Node:
        token = self.peek()
        if token.isdigit() or token == ".":
            return self._mixed(self.number())
        start = self.at
        self.take()
        if token == "{":
            return self._group()
        if token in ("(", "[", "\\langle"):
            content, closing = self._within(token, (")", "]", "\\rangle"))
            if content.op in (",", "and"):
                return Node("bracket", ("[" if token == "[" else "(", "]" if closing == "]" else ")", *content.args))
            return content
        if token == "\\{":
            return self._set()
        if token == "|":
            return Node("abs", (self._within("|", ("|",))[0],))
        if token in ("\\lfloor", "\\lceil"):
            return Node(token[2:], (self._within(token, ("\\rfloor", "\\rceil"))[0],))
        if token.isalpha():
            return self._named(token)
        if token in _CONSTANTS:
            return Node(token[1:])
        name = token[1:]
        if name in _NAMES:
            return self._named(token)
        if name in _FUNCTIONS:
            return self._function(name)
        if name in _OF_SEVERAL and self.peek() == "(":
            arguments = self._atom()
            return Node(name, arguments.args[2:] if arguments.op == "bracket" else (arguments,))
        if name in ("frac", "binom"):
            return Node("/" if name == "frac" else "binomial", (self._argument(), self._argument()))
        if name == "sqrt":
            root = self._within("[", ("]",))[0] if self.peek() == "[" and self.take() else number("2")
            return Node("^", (self._argument(), Node("/", (number("1"), root))))
        if name in ("sum", "prod"):
            return self._sum_or_product(name)
        if name in ("angle", "triangle"):
            vertices = self.match(_VERTICES)
            return self._named(f"{token} {min(vertices[1], vertices[1][::-1])}") if vertices else self._atom()
        if name in ("text", "mathbb") or token in _ACCENTS:
            return self._worded(name)
        if name == "begin":
            return self._environment()
        raise ValueError(f"unknown token at {start}")

    def _mixed(self, whole: Node) -> Node:
        r"""Adds the fraction in 1\frac{1}{2}."""
        if whole.args[0].denominator == 1 and self.peek() == "\\frac":
            start = self.at
            part = self._atom()
            if all(side.op == "number" for side in part.args):
                return Node("+", (whole, part))
            self.at = start
        return whole

    def _group(self) -> Node:
        content, closing = self._within("{", ("}", "\\over", "\\choose"))
        if closing == "}":
            return Node("set", content.args) if content.op == "," else content
        lower, _ = self._within("{", ("}",))
        return Node("/" if closing == "\\over" else "binomial", (content, lower))

    def _set(self) -> Node:
        if self.peek() == "\\}":
            self.take()
            return Node("emptyset")
        content, closing = self._within("\\{", ("\\}", "|", "\\mid", ":"))
        if closing == "\\}":
            return Node("set", content.args if content.op in (",", "and", "or") else (content,))
        condition = self._within("(", ("\\}",))[0]
        element = content
        if element.op == "chain" and element.args[1] == "in":
            condition, element = Node("and", (condition, content)), element.args[0]
        return Node("builder", (element, condition))

    def _named(self, name: str) -> Node:
        if name in _ALWAYS_FUNCTIONS and self.match(_INVERSE):
            return self._named(name + "^-1")
        if self.peek() == "'":
            return self._named(name + self.take())
        leaf = Node(name) if name in ("i", "e") and name != self._index else Node("name", (name,))
        start, call = self.at, self.match(_CALL)
        is_function = call and call[1] != name and (name[0] in _ALWAYS_FUNCTIONS or _SIMPLE.fullmatch(call[1]))
        if call and is_function and "," not in call[1]:
            return Node("name", (f"{name}({call[1].replace(' ', '')})",))
        self.at = start
        return self._atom() if call and "," in call[1] and name.isupper() else leaf  # A(1,2) is a point

    def _function(self, name: str) -> Node:
        base = number("10") if name in ("log", "lg") else Node("e")
        if name == "log" and self.peek() == "_":
            self.take()
            base = self._exponent()
        exponent = None
        if self.peek() == "^":
            self.take()
            exponent = self._exponent()
        argument = self._atom() if self.peek() == "(" else self._product(is_argument=True)
        if exponent == Node("neg", (number("1"),)):
            name, exponent = "arc" + name, None
        is_log = name in ("log", "ln", "lg")
        value = Node("log", (argument, base)) if is_log else Node("function", (name, argument))
        return value if exponent is None else Node("^", (value, exponent))

    def _sum_or_product(self, name: str) -> Node:
        ends, outside = {}, self._index
        self._index = "i"
        for _ in range(2):
            sign = self.take()
            ends[sign] = self._argument()
        index = ends["_"] if "_" in ends else Node("blank")
        if index.op != "chain" or len(index.args) != 3 or "^" not in ends:
            raise ValueError("no bounds")
        body = self._product()
        self._index = outside
        return Node(name, (index.args[0], index.args[2], ends["^"], body))

    def _worded(self, command: str) -> Node:
        group = self.match(_GROUP)
        word = group[1].strip() if group else self.take()
        if command == "text" and re.fullmatch(r"[A-Za-z]|\d+", word):
            return number(word) if word.isdigit() else self._named(word)
        return Node("name", (word if command == "text" else f"\\{command} {word}",))

    def _environment(self) -> Node:
        kind = self.match(_GROUP)
        if kind is None:
            raise ValueError("no name")
        rows, cells = [], []
        while True:
            cells.append(self._cell())
            token = self.take()
            if token != "&":
                rows.append(Node("row", tuple(cells)))
                cells = []
            if token == "\\\\" and self.peek() == "\\end":
                token = self.take()
            if token == "\\end":
                self.match(_GROUP)
                break
        if kind[1] in ("cases", "aligned", "gathered"):
            return Node("and", tuple(cell for row in rows for cell in row.args))
        if kind[1] != "pmatrix":
            raise ValueError("not a matrix")
        return Node("matrix", tuple(rows))

    def _cell(self) -> Node:
        outside, self.inside = self.inside, "("
        cell = self._chain()
        self.inside = outside
        return cell
