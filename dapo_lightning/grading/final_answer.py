"""Finds the final answer in what a language model wrote, in time linear in the length of the text."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from dapo_lightning.grading.quantities import in_words
from dapo_lightning.grading.spelling import closing_bracket

_THOUGHT = re.compile(r"</(?:think|thinking|thought|reasoning)>")
_BOX = re.compile(
    r"\\(?:boxed|fbox)(?:\s{0,8}\{|\s{0,8}(\\[dt]?frac\{[^{}]{1,99}\}\{[^{}]{1,99}\})|\s{1,8}([^\s\\{}$]{1,100}))"
    r"|\\\\(?!boxed|fbox)|\\[{}]|[{}]"
)
_BESIDE = re.compile(r"(?:[\s$,;&]|\\[()\[\]]|\\text\{|\}|and\b|or\b|[A-Za-z] ?=){1,30}")  # between boxes of one list
_STATEMENT = re.compile(
    r"^[ \t#*_]*(?:the[ \t]+)?(?:final[ \t]+)?answer[ \t*_:：.#]*$"  # a heading
    r"|<answer>"
    r"|\b(?:answer|(?:correct|right)[ \t]+(?:option|choice))(?:[ \t]+(?:to|of|for)\b[^\n.:?!$]{1,60}?)?"
    r"(?:,[^\n.,]{1,20},)?[ \t*_]*"
    r"(?:[:：=]|-(?=[ \t])|\b(?:is|should be|must be)\b(?:[ \t]+(?:therefore|thus|then|hence))?:?)"
    r"|^[ \t*_]*(?:final[ \t]+)?(?:solution|result)[ \t*_]*[:：](?=[^\n]*\d)"
    r"|(?:答案|故选|应选)[是为选]?[:：]?"
    r"|^[ \t]*\#{4}(?!\#)",
    re.IGNORECASE | re.MULTILINE,
)
_LONG = 10_000  # characters; no real answer is, so it stays as it is
_MARKUP = re.compile(r"[\s*_>`}]*(?:=\s)?")
_CLAUSE_ENDS = re.compile(
    r"[.;?](?=\s|$)|。|</answer>|\s-\s(?=[a-z]{3})|,?\s(?:because|since|which|so|where|when|as)\b"
    r"|\sand (?:we|it|this|that)\b",
    re.IGNORECASE,
)
_EXCLAMATION = re.compile(r"!(?=\s*$|\s+[A-Z])")
_SENTENCE = re.compile(
    r"(?:the|there|this|that|it|we|so|thus|hence|our)\b.*\b(?:is|are|equals|have|get)\s", re.IGNORECASE
)
_TELLING = re.compile(
    r"[^\n]{0,200}?(?:[\d\\$]|\*\*)|\(?[A-J](?:[).:]|$)|[a-z]$|(?:yes|no|true|false)\b", re.IGNORECASE
)
_STRUCK = re.compile(r"~~[^~\n]{0,200}~~|</?[a-z]{1,8}>")
_QUOTES = ("**", "__", "`", "$$", "$"), (r"\(", r"\["), (r"\)", r"\]")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|boxed|fbox)\s{0,8}\{")


def final_answer(completion: str, pattern: re.Pattern[str] | None = None, several: bool = False) -> str | None:
    r"""Returns the answer of a completion, without the dollars, full stop or \text{} around it; None if there is none.

    With `pattern`, it is the group of the last match. Without, it is whichever stands last behind the last `</think>`:

    - a \boxed{} or \fbox{} whose braces balance and that is not empty; with `several`, boxes side by side are a list;
    - `Answer: ...`, `the answer is ...`, `<answer>...`, a heading `Final answer` with a line below, or `#### ...`, up
      to the end of the line or of the clause, if it states an answer: "the answer is correct" does not.
    """
    if pattern is not None:
        answer = last_match(pattern, completion)
        return None if answer is None else bare(answer)
    completion = _THOUGHT.split(completion)[-1]
    statements = deque(_statements(completion), maxlen=100)
    end, box = _last_box(completion, several)
    told = [(at, text) for at, is_explicit, text in statements if text and (is_explicit or _is_telling(text))]
    if told and (told[-1][0] > end or not box):
        return told[-1][1]
    if box is None:
        return statements[-1][2] if statements else None
    box = bare(box)
    inner = list(_statements(box[:_LONG]))
    return inner[-1][2] if inner else box


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


def _last_box(text: str, several: bool) -> tuple[int, str | None]:
    """Returns where the last box ends and what it contains; (-1, None) if there is none."""
    opened: list[tuple[int, int]] = []  # where the box starts, or -1, and where the content of the brace does
    boxes: list[tuple[int, int, int]] = []  # start of the box, start and end of its content
    for token in _BOX.finditer(text):
        if bare_group := token.lastindex:  # \boxed 5
            boxes.append((token.start(), *token.span(bare_group)))
        elif token[0].startswith(("{", "\\b", "\\f")):
            opened.append((-1 if token[0] == "{" else token.start(), token.end()))
        elif token[0] == "}" and opened:
            start, inside = opened.pop()
            if start >= 0:
                boxes.append((start, inside, token.start()))
    if not boxes:
        return -1, None
    full = [box for box in boxes if box[2] > box[1]] or boxes
    last = max(full)
    run = [last]
    if several:
        before = sorted(box for box in full if box[2] < last[0])[-20:]
        while before and _BESIDE.fullmatch(text[before[-1][2] + 1 : run[0][0]][:200]):
            run.insert(0, before.pop())
    contents = dict.fromkeys(text[start:end] for _, start, end in run)
    return last[2], ", ".join(contents)


def _statements(text: str) -> Iterator[tuple[int, bool, str]]:
    """Yields where each statement starts, whether it says `Answer:`, and the answer."""
    # A statement at which the text breaks off says nothing.
    end = len(text.rstrip(" \t\r\n*_`$.:#"))
    for match in deque((match for match in _STATEMENT.finditer(text, 0, end) if match.end() < end), maxlen=100):
        is_explicit = match[0].rstrip("* ")[-1:] in ":：>" and "is" not in match[0]
        yield match.start(), is_explicit, _stated(text, match.end())


def _stated(text: str, start: int) -> str:
    start = _MARKUP.match(text, start).end()  # type: ignore[union-attr]
    for opening, closing in ((r"\[", r"\]"), ("$$", "$$")):
        if text.startswith(opening, start) and (stop := text.find(closing, start + 2)) > 0:
            return bare(text[start + 2 : stop])
    stop = text.find("\n", start)
    line = (text[start:] if stop < 0 else text[start:stop]).rstrip(" \t\r*_`")
    line = _STRUCK.sub("", line).lstrip(" *_`")
    if sentence := _SENTENCE.match(line, 0, _LONG):
        line = line[sentence.end() :]
    clause = _CLAUSE_ENDS.split(line, maxsplit=1)[0]
    if "=" not in clause:  # 120 = 5!
        clause = _EXCLAMATION.split(clause, maxsplit=1)[0]
    return bare(clause.rstrip(" \t\r*_`"))


def _is_telling(text: str) -> bool:
    return not text.startswith("not ") and (bool(_TELLING.match(text)) or in_words(text[:100]) is not None)


def bare(text: str) -> str:
    """Returns an answer without the quotes, dollars and boxes around it."""
    text = _STRUCK.sub("", text).strip()
    for _ in range(8 if len(text) < _LONG else 0):  # wrappers in wrappers
        before, text = text, text.strip()
        if not text.endswith("..."):
            text = text.removesuffix(".")
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
