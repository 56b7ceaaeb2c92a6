"""Finds the program in what a language model wrote, in time linear in the length of the text."""

from __future__ import annotations

import re

_THOUGHT = re.compile(r"</(?:think|thinking|thought|reasoning)>")
_FENCE = re.compile(r"[ \t]{0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)[^`]*")
_PYTHON = ("python", "py", "python3")


def fenced_program(completion: str) -> str | None:
    """Returns the last fenced block after the last `</think>`; of several blocks, the last one that is labelled as
    Python, if there is any. None if there is no block. The last block needs no closing fence."""
    blocks: list[tuple[str, list[str]]] = []
    fence = ""  # of the block that is open
    for line in _THOUGHT.split(completion)[-1].split("\n"):
        found = _FENCE.fullmatch(line)
        if fence and found and found[1].startswith(fence) and not found[2]:
            fence = ""
        elif fence:
            blocks[-1][1].append(line)
        elif found:
            fence = found[1]
            blocks.append((found[2].lower(), []))
    python = [block for block in blocks if block[0] in _PYTHON]
    return "\n".join((python or blocks)[-1][1]) if blocks else None
