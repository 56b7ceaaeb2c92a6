"""The table printer."""

from __future__ import annotations

from dapo_lightning.utils.table import table


def test_markdown_is_aligned_and_numbers_stay_as_they_were_written():
    assert table(["name", "s"], [["a", 1.5], ["longer", "12340"], ["", "1.50"]]).splitlines() == [
        "| name   |     s |",
        "|:-------|------:|",
        "| a      |   1.5 |",
        "| longer | 12340 |",
        "|        |  1.50 |",
    ]


def test_plain_style_has_no_rules():
    lines = table(["a", "b"], [["x", "10"], ["yy", "5"]], style="plain").splitlines()
    assert lines == ["a      b", "x     10", "yy     5"]


def test_a_cell_with_a_bar_stays_one_cell_and_a_table_may_have_no_rows():
    assert "p \\| q" in table(["a", "b"], [["p | q", 1]])
    assert table(["a", "b"], []).startswith("| a   | b   |")
