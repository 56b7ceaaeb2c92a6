r"""LaTeX -> a tree, by recursive descent over TeX's own tokens, in time linear in the length of the text.

A macro takes its arguments as TeX does: the next token or group, so that \frac1n is 1/n and \sqrt2x is x\sqrt2. Nothing
is worked out here, and no text is ever evaluated as Python.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from dapo_lightning.grading.arithmetic import RELATIONS, SEPARATORS, SETS, Arithmetic
from dapo_lightning.grading.brackets import ENDS
from dapo_lightning.grading.tree import Node, depth

_MAX_DEPTH = 100
_WORDED = re.compile(r"\\(?:text|begin|end|mathbb)\{[^{}]*\}")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")


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


class _Reader(Arithmetic):
    """Lists, chains of relations, and unions of sets."""

    def listing(self) -> Node:
        """Items between separators; the item itself if there is but one."""
        items, kinds = [self.chain()], {","}
        while self.peek() in SEPARATORS:
            while self.peek() in SEPARATORS:  # `, and` is one separator
                kinds.add(SEPARATORS[self.take()])
            if self.peek() in ENDS:
                break
            items.append(self.chain())
        kind = "or" if "or" in kinds else "and" if "and" in kinds else ","
        return Node(kind, tuple(items)) if len(items) > 1 else items[0]

    def chain(self) -> Node:
        sides: list[Any] = [Node("blank") if self.peek() in RELATIONS else self.union()]
        while (sign := self.peek()) in RELATIONS:
            self.take()
            sides += [RELATIONS[sign], self.union()]
        return Node("chain", tuple(sides)) if len(sides) > 1 else sides[0]

    def union(self) -> Node:
        left = self.sum()
        while (sign := self.peek()) in SETS:
            self.take()
            left = Node({"\\cup": "cup", "\\cap": "cap"}.get(sign, "setminus"), (left, self.sum()))
        return left
