"""Consoles that cannot show all characters."""

import io

from dapo_lightning.utils.console import show_all_characters


def test_an_ascii_console_loses_no_line(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    show_all_characters()
    print("avg@8 0.944 ± 0.052, 字")
    assert written.getvalue() == b"avg@8 0.944 +- 0.052, ?\n"
