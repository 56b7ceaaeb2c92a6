"""Brings the code that README quotes up to date with the source: `python -m docs.quotes`.

A quotation is a code block after a comment that names its source: `<!-- source: <path>::<name> -->`. A test fails while
quotation and source differ.
"""

from __future__ import annotations

import re

from docs.pages import ROOT, source_of

QUOTE = re.compile(r"^<!-- source: (\S+)::([\w.]+) -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def update_quotes() -> None:
    """Writes README with every quotation replaced by its source."""

    def quoted(match: re.Match[str]) -> str:
        source, _ = source_of(ROOT / match[1], match[2])
        return f"<!-- source: {match[1]}::{match[2]} -->\n```python\n{source}\n```"

    path = ROOT / "README.md"
    path.write_text(QUOTE.sub(quoted, path.read_text()))


if __name__ == "__main__":
    update_quotes()
