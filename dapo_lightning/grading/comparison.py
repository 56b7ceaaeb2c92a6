"""Whether two answers, as trees, mean the same: values, lists, sets, assignments of values to names, and relations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from dapo_lightning.grading.assignments import as_function, assignments
from dapo_lightning.grading.points import difference, points, ratio, same_value
from dapo_lightning.grading.regions import same_set
from dapo_lightning.grading.shapes import LISTS, shaped, signed, with_constant
from dapo_lightning.grading.tree import Node, names, replaced

_REGIONS = ("bracket", "cup", "cap", "setminus", "builder", "emptyset", "set")  # of real numbers


def same(gold: Node, found: Node) -> bool:
    """Whether an answer is right."""
    if gold == found:
        return True
    try:
        return _same(shaped(signed(gold)), shaped(signed(with_constant(gold, found))))
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
    left = assignments(gold)
    right = assignments(found, frozenset(name for name, _ in left))
    if left and right:
        if len(left) == len(right) == 1:
            right = [as_function(left[0][0], *right[0])]
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
        return other.op in (*LISTS, "set") and _matched(values, other.args)
    items = other.args[2:] if other.op == "bracket" and other.args[:2] == ("(", ")") else other.args
    if other.op not in (",", "and", "bracket") or len(items) != len(values):
        return False
    orders = values, [value for _, value in sorted(pairs, key=lambda pair: pair[0])]
    return any(all(map(_same_item, order, items)) for order in orders)


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
    if all(kind in (*LISTS, "set") for kind in kinds) and not (_has_relations(gold) and _has_relations(found)):
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
    return node.op in ("chain", *_REGIONS) or node.op in LISTS or _is_number_set(node)


def _is_number_set(node: Node) -> bool:
    return node.op == "name" and str(node.args[0]).startswith("\\mathbb")


def _has_relations(node: Node) -> bool:
    return any(item.op == "chain" for item in node.args if isinstance(item, Node))


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
    if any(node.op in LISTS and not all(item.op == "chain" for item in node.args) for node in (gold, found)):
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
