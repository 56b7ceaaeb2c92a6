"""Text of a policy or of somebody's data, made safe to look at."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    """Returns the text with a name, such as ⟨U+202E⟩, in place of each character that hides or reorders others, or that
    a terminal would obey."""
    return "".join(_named(character) if _is_hidden(character) else character for character in text)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and character not in "\n\t"


def _named(character: str) -> str:
    return f"⟨U+{ord(character):04X}⟩"
