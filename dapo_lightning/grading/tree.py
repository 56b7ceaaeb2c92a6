"""The tree of a mathematical expression."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple


class Node(NamedTuple):
    r"""A number (one Fraction), a name (one str), an operation, or a structure.

    Structures: "," "and" "or" (lists), "bracket" (its two signs, then the items), "set", "builder" (name, condition),
    "chain" (sides and relation signs in turn), "matrix" (rows, each a list), "progression" ("+" or "*", then the terms
    or factors, among them DOTS).
    """

    op: str
    args: tuple[Any, ...] = ()


DOTS = Node("dots")


def number(digits: str) -> Node:
    return Node("number", (Fraction(digits),))


def depth(node: Any) -> int:
    return 1 + max(map(depth, node.args), default=0) if isinstance(node, Node) else 0


@lru_cache(4096)
def names(node: Node) -> frozenset[str]:
    """The free variables of a tree."""
    if node.op == "name":
        return frozenset(node.args)
    found = frozenset(name for part in node.args if isinstance(part, Node) for name in names(part))
    return found - names(node.args[0]) if node.op in ("sum", "prod", "builder") else found


def has(node: Any, *ops: str) -> bool:
    """Whether one of these operations occurs in a tree."""
    return isinstance(node, Node) and (node.op in ops or any(has(part, *ops) for part in node.args))


def walk(node: Any) -> Iterator[Node]:
    """A tree and all trees in it."""
    if isinstance(node, Node):
        yield node
        for part in node.args:
            yield from walk(part)


def replaced(node: Any, names: dict[str, Node]) -> Any:
    """The same with other expressions in place of some variables."""
    if not isinstance(node, Node):
        return node
    if node.op == "name" and node.args[0] in names:
        return names[node.args[0]]
    return Node(node.op, tuple(replaced(part, names) for part in node.args))


def renamed(node: Node, old: str, new: str) -> Node:
    """The same with another name for a variable."""
    return replaced(node, {old: Node("name", (new,))})
