"""Formats numbers and tables as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate  # type: ignore[import-untyped]


def number(value: float, form: str = "{:.3f}") -> str:
    """Formats a number, with an exponent if it has more than nine digits before the decimal point."""
    return f"{value:{'+' if '+' in form else ''}.3e}" if abs(value) >= 1e9 else form.format(value)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], style: str = "pipe") -> str:
    """Returns an aligned table with the first column on the left and all others on the right.

    Args:
        style: a table format of tabulate; `pipe` is Markdown, `plain` has no rules.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if style == "pipe":
        cells = [[cell.replace("|", "\\|") for cell in row] for row in cells]  # a plain | would split the cell
    align = {"colalign": ("left", *["right"] * (len(header) - 1))} if cells else {}  # not for an empty table
    return tabulate(cells, header, tablefmt=style, disable_numparse=True, **align)
