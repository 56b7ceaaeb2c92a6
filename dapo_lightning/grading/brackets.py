"""Groups, brackets, sets and environments of LaTeX."""

from __future__ import annotations

import re
from abc import abstractmethod

from dapo_lightning.grading.tokens import Tokens
from dapo_lightning.grading.tree import Node

GROUP = re.compile(r"\s*\{([^{}]*)\}")
ENDS = {")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil", "\\end", "\\over", "\\choose", "\\mid", "&", ""}


class Brackets(Tokens):
    """What brackets of each kind contain."""

    @abstractmethod
    def listing(self) -> Node: ...

    @abstractmethod
    def chain(self) -> Node: ...

    def within(self, opening: str, closings: tuple[str, ...]) -> tuple[Node, str]:
        outside, self.inside = self.inside, opening
        content = self.listing()
        self.inside = outside
        if self.peek() not in closings:
            raise ValueError("a bracket stays open")
        return content, self.take()

    def bracket(self, opening: str) -> Node:
        """What stands in round, square or angle brackets: a tuple or an interval, or one expression."""
        content, closing = self.within(opening, (")", "]", "\\rangle"))
        if content.op in (",", "and"):
            return Node("bracket", ("[" if opening == "[" else "(", "]" if closing == "]" else ")", *content.args))
        return content

    def group(self) -> Node:
        content, closing = self.within("{", ("}", "\\over", "\\choose"))
        if closing == "}":
            return Node("set", content.args) if content.op == "," else content
        lower, _ = self.within("{", ("}",))
        return Node("/" if closing == "\\over" else "binomial", (content, lower))

    def set(self) -> Node:
        if self.peek() == "\\}":
            self.take()
            return Node("emptyset")
        content, closing = self.within("\\{", ("\\}", "|", "\\mid", ":"))
        if closing == "\\}":
            return Node("set", content.args if content.op in (",", "and", "or") else (content,))
        condition = self.within("(", ("\\}",))[0]
        element = content
        if element.op == "chain" and element.args[1] == "in":
            condition, element = Node("and", (condition, content)), element.args[0]
        return Node("builder", (element, condition))

    def environment(self) -> Node:
        kind = self.match(GROUP)
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
                self.match(GROUP)
                break
        if kind[1] in ("cases", "aligned", "gathered"):
            return Node("and", tuple(cell for row in rows for cell in row.args))
        if kind[1] != "pmatrix":
            raise ValueError("not a matrix")
        return Node("matrix", tuple(rows))

    def _cell(self) -> Node:
        outside, self.inside = self.inside, "("
        cell = self.chain()
        self.inside = outside
        return cell
