"""Finds the final answer in what a language model wrote, in time linear in the length of the text."""

from __future__ import annotations

import re
from collections import deque

_BOX = re.compile(r"\\(?:boxed|fbox)(?:\s{0,8}\{|\s{1,8}([^\s\\{}$]{1,100}))|\\\\(?!boxed|fbox)|\\[{}]|[{}]")
_STATEMENT = re.compile(
    r"^[ \t#*_]*(?:the[ \t]+)?(?:final[ \t]+)?answer[ \t*_:.]*$"  # a heading
    r"|\banswer(?:[ \t]+(?:to|of|for)\b[^\n.:?!$]{1,60}?)?[ \t*_]*(?::|=|is\b:?)"
    r"|^[ \t]*\#{4}(?!\#)",
    re.IGNORECASE | re.MULTILINE,
)
_LONG = 10_000  # characters; no real answer is, so it stays as it is
_MARKUP = re.compile(r"[\s*_>`]*")
_CLAUSE_ENDS = re.compile(r"[.;!?](?=\s|$)|,?\s(?:because|since|which|so|where|when|as)\b", re.IGNORECASE)
_QUOTES = ("**", "__", "`", "$$", "$"), (r"\(", r"\["), (r"\)", r"\]")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|boxed|fbox)\s{0,8}\{")


def final_answer(completion: str, pattern: re.Pattern[str] | None = None) -> str | None:
    r"""Returns the answer of a completion, without the dollars, full stop or \text{} around it; None if there is none.

    With `pattern`, it is the group of the last match. Without, it is the first of these that exists:

    1. the last \boxed{} or \fbox{} whose braces balance ("" if it is empty), whatever follows it: a box is meant as an
       answer, while "the answer is" also begins sentences about answers;
    2. the last of `Answer: ...`, `the answer is ...`, a heading `Final answer` with a line below, and `#### ...`, up to
       the end of the line or of the clause.
    """
    if pattern is None:
        answer = _last_box(completion)
        return _last_statement(completion) if answer is None else _bare(answer)
    answer = last_match(pattern, completion)
    return None if answer is None else _bare(answer)


def answer_pattern(pattern: str | None) -> re.Pattern[str] | None:
    """Compiles the regular expression that finds an answer, if there is one.

    Raises:
        ValueError: if it is malformed, or does not have exactly one group.
    """
    if pattern is None:
        return None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"reward.pattern={pattern!r} is not a regular expression: {error}.") from error
    if expression.groups != 1:
        raise ValueError(f"reward.pattern={pattern!r} needs one group, the answer, but has {expression.groups}.")
    return expression


def last_match(pattern: re.Pattern[str], text: str) -> str | None:
    """Returns the group of the last match; "" if the group took no part in it, None if there is no match."""
    last = deque(pattern.finditer(text), maxlen=1)
    return last[0][1] or "" if last else None


def _last_box(text: str) -> str | None:
    opened: list[tuple[int, bool]] = []  # start of the content, and whether a box opened the brace
    span = (-1, -1)
    for token in _BOX.finditer(text):
        if token[1] is not None:  # \boxed 5
            span = max(span, token.span(1))
        elif token[0].startswith(("{", "\\b", "\\f")):
            opened.append((token.end(), token[0] != "{"))
        elif token[0] == "}" and opened:
            start, is_box = opened.pop()
            if is_box:
                span = max(span, (start, token.start()))
    return None if span[0] < 0 else text[slice(*span)]


def _last_statement(text: str) -> str | None:
    # A statement at which the text breaks off says nothing.
    end = len(text.rstrip(" \t\r\n*_`$.:#"))
    last = None
    for match in _STATEMENT.finditer(text, 0, end):
        if match.end() < end:
            last = match
    if last is None:
        return None
    start = _MARKUP.match(text, last.end()).end()  # type: ignore[union-attr]
    for opening, closing in ((r"\[", r"\]"), ("$$", "$$")):
        if text.startswith(opening, start) and (stop := text.find(closing, start + 2)) > 0:
            return _bare(text[start + 2 : stop])
    stop = text.find("\n", start)
    line = text[start:] if stop < 0 else text[start:stop]
    return _bare(_CLAUSE_ENDS.split(line, maxsplit=1)[0].rstrip(" \t\r*_`"))


def _bare(text: str) -> str:
    text = text.strip()
    for _ in range(8 if len(text) < _LONG else 0):  # wrappers in wrappers
        before, text = text, text.strip().removesuffix(".")
        for quote in _QUOTES[0]:
            inner = text[len(quote) : -len(quote)]
            if len(text) >= 2 * len(quote) and text.startswith(quote) and text.endswith(quote) and quote not in inner:
                text = inner
        if text.startswith(_QUOTES[1]) and text.endswith(_QUOTES[2]) and text.find("\\", 2) == len(text) - 2:
            text = text[2:-2]
        if (wrapper := _WRAPPER.match(text)) and closing_bracket(text, wrapper.end() - 1) == len(text) - 1:
            text = text[wrapper.end() : -1]
        if text == before:
            break
    return text


def closing_bracket(text: str, start: int) -> int:
    """Returns the index of the bracket that closes the one at `start`; -1 if there is none."""
    opening = text[start]
    closing = {"(": ")", "{": "}"}[opening]
    depth = 0
    for index in range(start, len(text)):
        if text[index] in (opening, closing) and text[index - 1 : index] != "\\":
            depth += 1 if text[index] == opening else -1
            if depth == 0:
                return index
    return -1
