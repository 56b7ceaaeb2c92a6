"""Reads statements that assign values to names: `x = 1, y = 2`, `(x, y) = (1, 2)`, `f(t) = 2t`."""

from __future__ import annotations

import re

from dapo_lightning.grading.points import same_value
from dapo_lightning.grading.shapes import LISTS
from dapo_lightning.grading.tree import Node, names, renamed

_EQUAL = ("=", "~", "in")
_CALL = re.compile(r"([A-Za-z](?:\^-1)?)\(([a-z])\)")


def _label(side: Node, known: frozenset[str] | None) -> str | None:
    """The name to which an equation assigns a value; None if it is not a name but an equation to be solved. In a
    reference, the name may be a number, as in `sin(1) = 0.84`; an answer may use any name that its reference has."""
    if side.op in ("name", "e", "i"):
        return str(side.args[0]) if side.args else side.op
    if side.op == "abs" and side.args[0].op == "name" and str(side.args[0].args[0]).isupper():
        return f"|{side.args[0].args[0]}|"  # the size of a set
    if side.op == "bracket" and all(item.op == "name" for item in side.args[2:]):
        return "".join(item.args[0] for item in side.args[2:])
    if known is None:
        return None if names(side) or side.op == "blank" else repr(side)
    return repr(side) if len(names(side)) >= 2 or repr(side) in known else None


def assignments(node: Node, known: frozenset[str] | None = None) -> list[tuple[str, Node]]:
    """The pairs (name, value) of `x = 1, y = 2`, of `(x, y) = (1, 2)` or of `x = 1, 2`; [] if an item is none."""
    items = node.args if node.op in LISTS else (node,)
    pairs: list[tuple[str, Node]] = []
    for item in items:
        if item.op == "chain" and all(sign in _EQUAL for sign in item.args[1::2]):
            sides = item.args[::2]
            label = _label(sides[0], known)
            target = _exact_side(item)
            if label is None and len(sides) == 2 and sides[1].op == "name":
                label, target = str(sides[1].args[0]), sides[0]
            if label is None and not names(item) and all(same_value(sides[0], side) for side in sides[1:]):
                label = repr(sides[0])  # 3 + 4 = 7
            if label is None and sides[0].op not in ("blank",) and "~" in item.args and known is not None:
                label, target = "", sides[0]
            if label is None:
                return []
            first = sides[0]
            is_tuple = first.op == "bracket" and target.op == "bracket" and len(first.args) == len(target.args)
            if is_tuple and not any(other.op == "bracket" for other in items):
                pairs += [(name.args[0], value) for name, value in zip(first.args[2:], target.args[2:], strict=True)]
            else:
                pairs.append((label, target))
        elif pairs and item.op != "chain":
            pairs.append((pairs[-1][0], item))
        else:
            return []
    return pairs


def _exact_side(chain: Node) -> Node:
    """The value in `x = 2/3 = ...`: the last side, without approximations after an exact one."""
    sides, signs = chain.args[::2], chain.args[1::2]
    while len(sides) > 2 and signs[-1] == "~":
        sides, signs = sides[:-1], signs[:-1]
    return sides[-1]


def as_function(gold: str, name: str, value: Node) -> tuple[str, Node]:
    """Spells `f(t) = 2t` and `y = 2x` as the reference does, `f(x) = 2x`."""
    expected, found = _CALL.fullmatch(gold), _CALL.fullmatch(name)
    if expected and found and expected[1] == found[1] and expected[2] not in names(value) - {found[2]}:
        return gold, renamed(value, found[2], expected[2])
    return (gold if "y" in (gold, name) and (expected or found) else name), value
