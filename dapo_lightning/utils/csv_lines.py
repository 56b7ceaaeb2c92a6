"""Reads CSV files that a kill, a full disk or a loss of power may have damaged."""

from __future__ import annotations

import csv


def csv_lines(text: str) -> tuple[list[list[str]], bool]:
    """Returns the cells of each line of a file without line breaks in its cells, and whether its last line has no end
    (it is left out, because a number that is cut off may look like a number).

    Each line is read by itself, so that a damaged one does not spoil those after it. A line that cannot be read has no
    cells.
    """
    *lines, incomplete = text.split("\n")
    return [_cells(line.rstrip("\r")) for line in lines], bool(incomplete.strip())


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # for example, a cell of more than 131,072 characters
        return []
