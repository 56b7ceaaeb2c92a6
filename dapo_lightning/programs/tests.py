"""The tests of a row of data, in one of three forms."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_FORMS = (
    "either `tests` (assert statements), `tests` and `entry_point` (a function check(candidate)), or `inputs` and "
    "`outputs` (texts)"
)


@dataclass(frozen=True)
class ProgramTests:
    """What a program has to pass: assertions, or inputs with their expected outputs.

    Args:
        preamble: code that precedes both the program and the tests, such as imports.
        tests: assert statements; with `entry_point`, the definition of `check(candidate)`.
        entry_point: the name of the function that `check` receives.
        inputs, outputs: what the program reads and has to write, one text for each run.
    """

    preamble: str = ""
    tests: str = ""
    entry_point: str | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    @staticmethod
    def of(columns: Mapping[str, Any], names: Mapping[str, str] | None = None) -> ProgramTests:
        """Reads the columns of a row.

        Args:
            names: other names of columns, such as {tests: test_list}.

        Raises:
            ValueError: with the columns and the remedy.
        """
        found = {name: columns.get((names or {}).get(name, name)) for name in ProgramTests.__dataclass_fields__}
        tests, entry_point = found["tests"], found["entry_point"]
        if isinstance(tests, Sequence) and not isinstance(tests, str):
            tests = "\n".join(map(str, tests))
        runs = [_texts(found[name], name) for name in ("inputs", "outputs")]
        if bool(tests) == bool(runs[0]) or len(runs[0]) != len(runs[1]):
            raise ValueError(f"it has {len(runs[0])} inputs, {len(runs[1])} outputs and {'' if tests else 'no '}tests: "
                             f"a program needs {_FORMS}; the columns are {sorted(columns)}")  # fmt: skip
        if tests:
            _check(str(tests), entry_point)
        return ProgramTests(str(found["preamble"] or ""), str(tests or ""), entry_point or None, *runs)


def _texts(value: Any, name: str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value or ())
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"`{name}` has to be a text or a list of texts")
    return texts


def _check(tests: str, entry_point: Any) -> None:
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"its tests are not Python ({error})") from None
    if not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        raise ValueError("its tests contain no assert statement, so no program would pass them")
    has_check = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body)
    if entry_point and not (isinstance(entry_point, str) and entry_point.isidentifier() and has_check):
        raise ValueError("with `entry_point`, its tests have to define check(candidate)")
