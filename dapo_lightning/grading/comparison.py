"""Whether two answers, as trees, mean the same: values, lists, sets, assignments of values to names, and relations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

from dapo_lightning.grading.latex import Node
from dapo_lightning.grading.values import (
    difference,
    has,
    names,
    number_or_none,
    points,
    ratio,
    same_set,
    same_value,
)

_LISTS = (",", "and", "or")
_REGIONS = ("bracket", "cup", "cap", "setminus", "builder", "emptyset", "set")  # of real numbers
_CALL = re.compile(r"([A-Za-z](?:\^-1)?)\(([a-z])\)")
_MIRRORED = {">": "<", ">=": "<="}
_EQUAL = ("=", "~", "in")


def same(gold: Node, found: Node) -> bool:
    """Whether an answer is right."""
    if gold == found:
        return True
    try:
        return _same(_shaped(_signed(gold)), _shaped(_signed(_constant(gold, found))))
    except MemoryError:
        raise
    except Exception:  # what cannot be worked out counts as different
        return False


def _same(gold: Node, found: Node) -> bool:
    is_rounded = (gold.op == "number" and gold.args[0].denominator > 1) or (
        "~" in gold.args and found.args[:1] == (Node("blank"),)
    )
    if is_rounded and found.op == "chain" and found.args[-2] == "~":
        found = found.args[-1]  # an approximation is asked for
    left = _assignments(gold)
    right = _assignments(found, frozenset(name for name, _ in left))
    if left and right:
        if len(left) == len(right) == 1:
            right = [_function(left[0][0], *right[0])]
        if sorted({a for a, _ in left}) == sorted({a for a, _ in right}):
            return _match(left, right)
        return _same_formula(gold, found)
    if left:
        return _same_values(left, found, is_exact=True) or _same_formula(gold, found)
    if right:
        return _same_values(right, gold, is_exact=False) or _same_formula(gold, found)
    return _same_item(gold, found)


def _same_values(pairs: list[tuple[str, Node]], other: Node, is_exact: bool) -> bool:
    """Compares the values that names have with a value, a tuple or a list."""
    values = [value for _, value in pairs]
    if len(values) == 1:
        return _same_item(values[0], other) if is_exact else _same_item(other, values[0])
    if len({name.partition("_")[0] for name, _ in pairs}) == 1 and other.op != "bracket":  # x_1 = 2, x_2 = 3
        return other.op in (*_LISTS, "set") and _matched(values, other.args)
    items = other.args[2:] if other.op == "bracket" and other.args[:2] == ("(", ")") else other.args
    if other.op not in (",", "and", "bracket") or len(items) != len(values):
        return False
    orders = values, [value for _, value in sorted(pairs, key=lambda pair: pair[0])]
    return any(all(map(_same_item, order, items)) for order in orders)


def _function(gold: str, name: str, value: Node) -> tuple[str, Node]:
    """Spells `f(t) = 2t` and `y = 2x` as the reference does, `f(x) = 2x`."""
    expected, found = _CALL.fullmatch(gold), _CALL.fullmatch(name)
    if expected and found and expected[1] == found[1] and expected[2] not in names(value) - {found[2]}:
        return gold, renamed(value, found[2], expected[2])
    return (gold if "y" in (gold, name) and (expected or found) else name), value


def _match(left: list[tuple[str, Node]], right: list[tuple[str, Node]]) -> bool:
    return all(
        _matched([v for n, v in left if n == name], [v for n, v in right if n == name]) for name in {n for n, _ in left}
    )


def _matched(left: Sequence[Node], right: Sequence[Node], is_set: bool = False) -> bool:
    """Whether each item has one of its own on the other side."""
    if is_set:
        left, right = _distinct(left), _distinct(right)
    rest = list(right)
    for item in left:
        index = next((n for n, other in enumerate(rest) if _same_item(item, other)), None)
        if index is None:
            return False
        del rest[index]
    return not rest


def _distinct(items: Sequence[Node]) -> list[Node]:
    kept: list[Node] = []
    for item in items:
        if not any(_same_item(item, other) for other in kept):
            kept.append(item)
    return kept


def _same_item(gold: Node, found: Node) -> bool:
    kinds = gold.op, found.op
    if gold == found:
        return True
    if gold.op == found.op and gold.op in ("bracket", "matrix", "row", "ratio"):
        pairs = list(zip(gold.args, found.args, strict=True))
        return all(a == b if isinstance(a, str) else _same_item(a, b) for a, b in pairs)
    if all(kind in (*_LISTS, "set") for kind in kinds) and not (_has_relations(gold) and _has_relations(found)):
        return _matched(gold.args, found.args, is_set="set" in kinds)
    if "bracket" in kinds and any(kind in (",", "and") for kind in kinds):
        items = [node.args[2:] if node.op == "bracket" else node.args for node in (gold, found)]
        is_tuple = ("(", ")") in (gold.args[:2], found.args[:2])
        if is_tuple and not _has_relations(gold) and not _has_relations(found):
            return len(items[0]) == len(items[1]) and all(map(_same_item, *items))
    if "set" in kinds and all(kind == "set" or kind not in ("chain", *_REGIONS) for kind in kinds):  # {1} is 1
        items = [node.args if node.op == "set" else (node,) for node in (gold, found)]
        return len(items[0]) == len(items[1]) == 1 and _same_item(items[0][0], items[1][0])
    if _is_formula(gold) or _is_formula(found):
        return _same_formula(gold, found)
    return same_value(gold, found)


def _is_formula(node: Node) -> bool:
    return node.op in ("chain", *_REGIONS) or node.op in _LISTS or _is_number_set(node)


def _is_number_set(node: Node) -> bool:
    return node.op == "name" and str(node.args[0]).startswith("\\mathbb")


def _has_relations(node: Node) -> bool:
    return any(item.op == "chain" for item in node.args if isinstance(item, Node))


def _label(side: Node, known: frozenset[str] | None) -> str | None:
    """The name of what an equation gives a value to; None if it is not a name, but something to be solved. A reference
    may name a number, as in `sin(1) = 0.84`, and an answer what a reference does."""
    if side.op in ("name", "e", "i"):
        return str(side.args[0]) if side.args else side.op
    if side.op == "abs" and side.args[0].op == "name" and str(side.args[0].args[0]).isupper():
        return f"|{side.args[0].args[0]}|"  # the size of a set
    if side.op == "bracket" and all(item.op == "name" for item in side.args[2:]):
        return "".join(item.args[0] for item in side.args[2:])
    if known is None:
        return None if names(side) or side.op == "blank" else repr(side)
    return repr(side) if len(names(side)) >= 2 or repr(side) in known else None


def _assignments(node: Node, known: frozenset[str] | None = None) -> list[tuple[str, Node]]:
    """The pairs (name, value) of `x = 1, y = 2`, of `(x, y) = (1, 2)` or of `x = 1, 2`; [] if some item is no such."""
    items = node.args if node.op in _LISTS else (node,)
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
    """The value in `x = 2/3 = ...`: the last side, but for an approximation of one that is exact."""
    sides, signs = chain.args[::2], chain.args[1::2]
    while len(sides) > 2 and signs[-1] == "~":
        sides, signs = sides[:-1], signs[:-1]
    return sides[-1]


def _same_formula(gold: Node, found: Node) -> bool:
    """Compares relations and sets of real numbers."""
    if gold.op == found.op == "chain" and len(gold.args) == len(found.args) == 3 and gold.args[1] == found.args[1]:
        factor = ratio(*(difference(left, right) for left, _, right in (gold.args, found.args)))
        if factor and (factor > 0 or gold.args[1] in ("=", "!=")):
            return True
    variables = frozenset(name for name in names(gold) | names(found) if not name.startswith("\\mathbb"))
    is_met = _is_region(gold) or _is_region(found)
    if not all(_is_region(node) or names(node) == variables != set() for node in (gold, found)):
        return False
    if is_met and len(variables) > 1:
        return False
    if any(node.op in _LISTS and not all(item.op == "chain" for item in node.args) for node in (gold, found)):
        return False
    for variable in sorted(variables) or ["x"]:
        others = variables - {variable}
        for point in islice(points(others), 3):
            constants = {name: Node("number", (x,)) for name, x in point.items()}
            first, second = (_alternative(replaced(node, constants)) for node in (gold, found))
            agrees, is_any = same_set(first, second, variable)
            if not agrees:
                return False
            is_met |= is_any
    return is_met


def _is_region(node: Node) -> bool:
    return node.op in _REGIONS or _is_number_set(node)


def _alternative(node: Node) -> Node:
    """`x<1, x>3` says `or`, because no x is both."""
    if node.op != "," or not _has_relations(node):
        return node
    (variable,) = names(node)
    is_empty, _ = same_set(node, Node("emptyset"), variable)
    return Node("or" if is_empty else "and", node.args)


def _signed(node: Node) -> Node:
    r"""Writes each item with \pm as two."""
    items = node.args if node.op in (*_LISTS, "set") else (node,)
    if not has(node, "pm", "mp"):
        return node
    signs = [(True, False) if has(item, "pm", "mp") else (True,) for item in items]
    both = [_chosen(item, is_plus) for item, some in zip(items, signs, strict=True) for is_plus in some]
    return Node(node.op if node.op in (*_LISTS, "set") else ",", tuple(both))


def _chosen(node: Any, is_plus: bool) -> Any:
    if not isinstance(node, Node):
        return node
    parts = tuple(_chosen(part, is_plus) for part in node.args)
    if node.op in ("pm", "mp"):
        return parts[0] if (node.op == "pm") == is_plus else Node("neg", parts)
    return Node(node.op, parts)


def _constant(gold: Node, found: Node) -> Node:
    """The constant of integration has the name that it has in the reference."""
    others = [name for name in names(found) - names(gold) if name in ("c", "C", "k", "K", "C_1", "c_1")]
    return (
        renamed(found, others[0], "C")
        if len(others) == 1 < len(names(gold)) and "C" in names(gold) - names(found)
        else found
    )


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


def _shaped(node: Any) -> Any:
    """Gives equal structures one shape: matrices are multiplied out, a column is a tuple, and `a > b` is `b < a`."""
    if not isinstance(node, Node):
        return node
    op, args = node.op, tuple(map(_shaped, node.args))
    if op == "chain" and set(args[1::2]) <= set(_MIRRORED):
        args = tuple(_MIRRORED.get(part, part) if isinstance(part, str) else part for part in args[::-1])
    elif op == "chain" and set(args[1::2]) == {"="} and len(args) > 3 and all(side.op == "name" for side in args[::2]):
        args = tuple(part for side in sorted(args[::2]) for part in (side, "="))[:-1]  # a = b = c
    elif op in _LISTS and args[0].op == "chain" and args[0].args[1] == "!=":  # x \ne 1, 2
        name, *_ = args[0].args
        args = tuple(part if part.op == "chain" else Node("chain", (name, "!=", part)) for part in args)
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
    node = _shaped(_signed(node))
    shown = number_or_none(node)
    if shown is not None:
        return shown
    parts = [vote(part) if isinstance(part, Node) else str(part) for part in node.args]
    if node.op == "set":
        parts = sorted(set(parts))
    elif node.op in _LISTS:
        parts.sort()
    name = "," if node.op in _LISTS else node.op
    return parts[0] if node.op == "name" else f"{name}({' '.join(parts)})"
