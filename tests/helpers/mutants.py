"""Programs with one operator or constant changed."""

from __future__ import annotations

import ast
import random

_OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


def mutant(source: str, function: str, seed: int) -> str | None:
    """The source with a change somewhere in a function; None if it has nothing to change."""
    tree = ast.parse(source)
    bodies = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    places = [place for node in ast.walk(bodies[-1]) for place in _places(node)]
    if not places:
        return None
    node, field, index, new = random.Random(seed).choice(places)
    if index is None:
        setattr(node, field, new)
    else:
        getattr(node, field)[index] = new
    return ast.unparse(tree)


def _places(node: ast.AST):
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in _OPERATORS:
        yield node, "op", None, _OPERATORS[type(node.op)]()
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            if type(operator) in _OPERATORS:
                yield node, "ops", index, _OPERATORS[type(operator)]()
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield node, "value", None, not node.value if isinstance(node.value, bool) else node.value + 1
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 20:
        yield node, "value", None, node.value + "x"
