"""Gives trees with the same meaning the same shape."""

from __future__ import annotations

from typing import Any

from dapo_lightning.grading.points import number_or_none
from dapo_lightning.grading.tree import Node, has, names, renamed

LISTS = (",", "and", "or")
_MIRRORED = {">": "<", ">=": "<="}


def signed(node: Node) -> Node:
    r"""Writes each item with \pm as two items."""
    items = node.args if node.op in (*LISTS, "set") else (node,)
    if not has(node, "pm", "mp"):
        return node
    signs = [(True, False) if has(item, "pm", "mp") else (True,) for item in items]
    both = [_chosen(item, is_plus) for item, some in zip(items, signs, strict=True) for is_plus in some]
    return Node(node.op if node.op in (*LISTS, "set") else ",", tuple(both))


def _chosen(node: Any, is_plus: bool) -> Any:
    if not isinstance(node, Node):
        return node
    parts = tuple(_chosen(part, is_plus) for part in node.args)
    if node.op in ("pm", "mp"):
        return parts[0] if (node.op == "pm") == is_plus else Node("neg", parts)
    return Node(node.op, parts)


def with_constant(gold: Node, found: Node) -> Node:
    """Renames the constant of integration as in the reference."""
    others = [name for name in names(found) - names(gold) if name in ("c", "C", "k", "K", "C_1", "c_1")]
    return (
        renamed(found, others[0], "C")
        if len(others) == 1 < len(names(gold)) and "C" in names(gold) - names(found)
        else found
    )


def shaped(node: Any) -> Any:
    """Gives equal structures the same shape: matrices are multiplied out, columns are tuples, `a > b` is `b < a`."""
    if not isinstance(node, Node):
        return node
    op, args = node.op, tuple(map(shaped, node.args))
    if op == "chain" and set(args[1::2]) <= set(_MIRRORED):
        args = tuple(_MIRRORED.get(part, part) if isinstance(part, str) else part for part in args[::-1])
    elif op == "chain" and set(args[1::2]) == {"="} and len(args) > 3 and all(side.op == "name" for side in args[::2]):
        args = tuple(part for side in sorted(args[::2]) for part in (side, "="))[:-1]  # a = b = c
    elif op in LISTS and args[0].op == "chain" and args[0].args[1] == "!=":  # x \ne 1, 2
        name, *_ = args[0].args
        args = tuple(part if part.op == "chain" else Node("chain", (name, "!=", part)) for part in args)
    elif op in ("gcd", "lcm"):
        args = tuple(sorted(args, key=repr))
    elif op == "ratio" and len(args) == 2:
        op = "/"
    elif op == "ratio":
        args = tuple(Node("/", (part, args[0])) for part in args)
    elif op == "matrix" and all(len(row.args) == 1 for row in args):
        op, args = "bracket", ("(", ")", *(row.args[0] for row in args))
    elif op in ("*", "neg") and args[-1].op in ("matrix", "bracket"):
        return _scaled(args[-1], Node(op, args[:-1]))
    elif op == "*" and args[0].op in ("matrix", "bracket"):
        return _scaled(args[0], Node(op, args[1:]))
    return Node(op, args)


def _scaled(node: Any, by: Node) -> Any:
    if not isinstance(node, Node):
        return node
    inner = node.op in ("matrix", "row", "bracket")
    return Node(node.op, tuple(_scaled(part, by) for part in node.args)) if inner else Node(by.op, (*by.args, node))


def vote(node: Node) -> str:
    """One spelling for all trees of the same value, or with parts of the same values."""
    node = shaped(signed(node))
    shown = number_or_none(node)
    if shown is not None:
        return shown
    parts = [vote(part) if isinstance(part, Node) else str(part) for part in node.args]
    if node.op == "set":
        parts = sorted(set(parts))
    elif node.op in LISTS:
        parts.sort()
    name = "," if node.op in LISTS else node.op
    return parts[0] if node.op == "name" else f"{name}({' '.join(parts)})"
