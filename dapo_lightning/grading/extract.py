"""The final answer in what a language model wrote, and its spelling in one way. Linear in the length of the text."""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

_BOX = re.compile(r"\\(?:boxed|fbox)(?:\s{0,8}\{|\s{1,8}([^\s\\{}$]{1,100}))|\\\\(?!boxed|fbox)|\\[{}]|[{}]")
_STATEMENT = re.compile(
    r"^[ \t#*_]*(?:the[ \t]+)?(?:final[ \t]+)?answer[ \t*_:.]*$"  # a heading
    r"|\banswer(?:[ \t]+(?:to|of|for)\b[^\n.:?!$]{1,60}?)?[ \t*_]*(?::|=|is\b:?)"
    r"|^[ \t]*\#{4}(?!\#)",
    re.IGNORECASE | re.MULTILINE,
)
_LONG = 10_000  # characters; such an answer is not worth unwrapping
_MARKUP = re.compile(r"[\s*_>`]*")
_CLAUSE_ENDS = re.compile(r"[.;!?](?=\s|$)|,?\s(?:because|since|which|so|where|when|as)\b", re.IGNORECASE)
_QUOTES = ("**", "__", "`", "$$", "$"), (r"\(", r"\["), (r"\)", r"\]")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|boxed|fbox)\s{0,8}\{")


def final_answer(completion: str, pattern: re.Pattern[str] | None = None) -> str | None:
    r"""The answer that a completion ends on, without the dollars, full stop or \text{} around it; None if it has none.

    With `pattern`, the group of its last match. Without, the first of these that there is:

    1. the last \boxed{} or \fbox{} whose braces balance ("" if it is empty), whatever follows it: a box is meant as an
       answer, while "the answer is" also begins sentences about answers;
    2. the last of `Answer: ...`, `the answer is ...`, a heading `Final answer` with a line below, and `#### ...`, up to
       the end of the line, or of the clause.
    """
    if pattern is not None:
        last = deque(pattern.finditer(completion), maxlen=1)
        return _bare(last[0][1] or "") if last else None
    box = _last_box(completion)
    return _last_statement(completion) if box is None else _bare(box)


def _last_box(text: str) -> str | None:
    opened: list[tuple[int, bool]] = []  # where the content of each open brace begins, and whether it is a box's
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
    # A statement that the text breaks off after says nothing.
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
        if (wrapper := _WRAPPER.match(text)) and _closing(text, wrapper.end() - 1) == len(text) - 1:
            text = text[wrapper.end() : -1]
        if text == before:
            break
    return text


def _closing(text: str, start: int) -> int:
    """Where the bracket at `start` is closed; -1 if nowhere."""
    opening = text[start]
    closing = {"(": ")", "{": "}"}[opening]
    depth = 0
    for index in range(start, len(text)):
        if text[index] in (opening, closing) and text[index - 1 : index] != "\\":
            depth += 1 if text[index] == opening else -1
            if depth == 0:
                return index
    return -1


_SIGNS = r"""
× \times ✕ \times · \cdot ⋅ \cdot ∙ \cdot • \cdot ÷ / ∕ / ⁄ / ∞ \infty ± \pm ∓ \mp ≤ \leq ≥ \geq ⩽ \leq ⩾ \geq ≠ \neq
∪ \cup ∩ \cap ∈ \in ∖ \setminus ≈ \approx ∅ \emptyset √ sqrt π \pi θ \theta α \alpha β \beta γ \gamma δ \delta
λ \lambda μ \mu φ \phi ϕ \phi ω \omega ρ \rho σ \sigma ε \epsilon τ \tau ℝ \mathbb{R} ℤ \mathbb{Z} ℚ \mathbb{Q}
ℕ \mathbb{N} ℂ \mathbb{C} ½ \frac{1}{2} ⅓ \frac{1}{3} ⅔ \frac{2}{3} ¼ \frac{1}{4} ¾ \frac{3}{4} ⅕ \frac{1}{5}
⅖ \frac{2}{5} ⅗ \frac{3}{5} ⅘ \frac{4}{5} ⅙ \frac{1}{6} ⅚ \frac{5}{6} ⅐ \frac{1}{7} ⅛ \frac{1}{8} ⅜ \frac{3}{8}
⅝ \frac{5}{8} ⅞ \frac{7}{8} ⅑ \frac{1}{9} ⅒ \frac{1}{10}
""".split()
_PLAIN = str.maketrans(
    {sign: f" {latex} " for sign, latex in zip(_SIGNS[::2], _SIGNS[1::2], strict=True)}
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\0")
    | dict.fromkeys("º˚", "°")
)
_RAISED, _LOWERED = (re.compile(f"[{signs}]+") for signs in ("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣ", "₀₁₂₃₄₅₆₇₈₉₊₋ₙₖₓ"))
_DIGIT = re.compile(r"[^\W_a-zA-Z0-9]")
_SPELLINGS = [
    (re.compile(pattern), latex)
    for pattern, latex in (
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\.?|\\!|\\?\$|(?<!\\)\\[()\[\]]", ""),
        (r"\\(?:displaystyle|textstyle|q?quad)(?![a-zA-Z])|(?<!\\)\\[,;:\s]|~", " "),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\(?:math(?:rm|bf|it|sf)|text(?:bf|it|rm|sf|tt|normal)|text|mbox|operatorname)\s*\{", r"\\text{"),
        (r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\(?:circ|degree)(?![a-zA-Z])", "°"),
        (r"\\%", "%"),
        (r"\{,\}", ","),
        (r"\\[lr]?vert(?![a-zA-Z])", "|"),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\le(?:q|qslant)?(?![a-zA-Z])|<=", r"\\leq "),
        (r"\\ge(?:q|qslant)?(?![a-zA-Z])|>=", r"\\geq "),
        (r"\\neq?(?![a-zA-Z])|!=", r"\\neq "),
        (r"\\(?:varnothing|emptyset)|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\(begin|end)\{(?:[pbB]|small)?matrix\}|\\(begin|end)\{array\}(?:\{[lcr| ]*\})?", r"\\\1\2{pmatrix}"),
        (r"[(\[]\s*(\\begin\{pmatrix\})", r"\1"),
        (r"(?:\\\\\s*)?(\\end\{pmatrix\})\s*[)\]]", r"\1"),
        (r"\*\*", "^"),
        (r"(?<![A-Za-z\\])(?:inf|infinity|infty)(?![A-Za-z])", r"\\infty "),
        (r"(?<![A-Za-z\\])(pi|sin|cos|tan|log|ln)(?![A-Za-z])", r"\\\1 "),
        (
            r"(?<![A-Za-z\\])sqrt\s*(?:(\d+)|(?=[({a-z]))",
            lambda found: rf"\sqrt{{{found[1]}}}" if found[1] else r"\sqrt",
        ),
        (r"(?<=[)\]}])\s*(?:U|union)\s*(?=[(\[{\\])", r"\\cup "),
        (r"(?:,\s*)?(?:\\text\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))", ","),
        (r"\\[cl]?dots|…", "..."),
        (r"\\text\{\s*\}", ""),
        (r"\\(frac|sqrt)\s*([0-9a-zA-Z])(?![a-zA-Z])", r"\\\1{\2}"),
        (r"\\(frac|sqrt)\s+(?=[{\[(])", r"\\\1"),
        (r"\s+", " "),
    )
]


def simplified(answer: str) -> str:
    """`answer` with one spelling for what has several: Unicode signs as LaTeX, no dollars, no spacing commands, ..."""
    answer = _RAISED.sub(lambda run: f"^{{{run[0]}}}", answer)
    answer = _LOWERED.sub(lambda run: f"_{{{run[0]}}}", answer)
    answer = unicodedata.normalize("NFKC", answer.translate(_PLAIN)).translate(_PLAIN)
    answer = _DIGIT.sub(lambda found: str(unicodedata.digit(found[0], found[0])), answer)
    for pattern, latex in _SPELLINGS:
        answer = pattern.sub(latex, answer)
    return _braced(answer).rstrip(" \\").removesuffix(".").strip()


def _braced(text: str) -> str:
    r"""Braces around the second argument in \frac{1}2, and instead of parentheses in \sqrt(2) and x^(2)."""
    for found in reversed(list(re.finditer(r"\\frac\{|(?:\^|\\sqrt)\s*\(", text))):
        start = found.end() - 1
        stop = _closing(text, start)
        if stop < 0:
            continue
        if text[start] == "(":
            text = f"{text[:start]}{{{text[start + 1 : stop]}}}{text[stop + 1 :]}"
        elif bare := re.match(r"\s*([0-9a-zA-Z])", text[stop + 1 :]):
            text = f"{text[: stop + 1]}{{{bare[1]}}}{text[stop + 1 + bare.end() :]}"
    return text


_NAME = re.compile(
    r"((?:[A-Za-z][A-Za-z ]*+|\\text\{[A-Za-z ]*\} ?|\\[a-z]+ ?)(?:_\{?\w+\}? ?)?(?:\([a-z]\) ?)?"
    r"|\([a-z](?:, ?[a-z])*\) ?)(?:=|\\in(?![a-z]))"
)


def unassigned(gold: str, found: str) -> tuple[str, str]:
    """Both without the `x =` in front, where only one has it or both have the same."""
    (gold_name, gold_value), (found_name, found_value) = _assignment(gold), _assignment(found)
    if gold_name == found_name:
        return gold_value, found_value
    if gold_name and "=" not in found:
        return gold_value, found
    return (gold, found_value) if found_name and "=" not in gold else (gold, found)


def _assignment(text: str) -> tuple[str, str]:
    """`x = 2` and `x = 1 + 1 = 2` -> x, 2; `x = 1, x = 2` -> x, `1, 2`; others -> "", themselves."""
    closed = re.sub(" ?= ?", "=", text)
    name = _NAME.match(closed)
    if name is None:
        return "", text
    value = re.sub(rf"(, ?){re.escape(name[0])}", r"\1", closed[name.end() :])
    if "," not in value:
        value = value.rpartition("=")[2]
    return ("", text) if "=" in value or not value.strip() else (name[1].strip(), value.strip())


@dataclass(frozen=True)
class Unit:
    """What stands behind a number: the factor of words such as "million", whether it is percent, and known units."""

    scale: int = 1
    percent: bool = False
    known: tuple[str, ...] = ()


_NAMES = """
mm millimeter millimetre | cm centimeter centimetre | m meter metre | km kilometer kilometre | in inch inches
| ft foot feet | yd yard | mi mile | mg milligram | g gm gram | kg kilogram | lb pound | oz ounce | ml mL milliliter
| l L liter litre | gal gallon | s sec second | min minute | h hr hour | day | week | month | year yr | cent
| dollar USD | € euro EUR | £ GBP | ¥ yen | degree deg | radian rad | 2 square sq | 3 cubic cu
"""
_UNITS = {name: names.split()[0] for names in _NAMES.split("|") for name in names.split()}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_NO_UNITS = set(
    "squared cubed factorial half halves third thirds quarter quarters base mod times plus minus over root not no wrong"
    " incorrect to percent more less fewer greater most least than only if except".split()
)
_POWER = r"(?:\^\{?[23]\}?)?"
_WORD = rf"(?:(?:\\text\{{[A-Za-z .,/-]*\}}|(?<![A-Za-z\\])[A-Za-z]++\.?){_POWER}|[%°/])"
_TAIL = re.compile(rf"(?<=[^\s+*/=<>^_(\[-])(?:\s?{_WORD})++$")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z]")
_DEGREES = re.compile(r"°(?:[CF]|\\text\{ ?[CF] ?\})?")
_CURRENCY = re.compile(r"(-?)\s?([€£¥])\s?")


def measured(text: str) -> tuple[str, Unit]:
    """Splits simplified `text` into a value and the unit behind it, if what is behind it can only be a unit."""
    known = []
    if currency := _CURRENCY.match(text):
        text, known = currency[1] + text[currency.end() :], [currency[2]]
    tail = None if _TRIGONOMETRY.search(text) else _TAIL.search(text)
    if tail is None:
        return text, Unit(known=tuple(known))
    value, rest = text[: tail.start()], _DEGREES.sub(" degree ", tail[0]).replace("%", " percent ")
    scale, percent = 1, False
    words = re.findall(r"[A-Za-z]+|[23]", rest.replace(r"\text", ""))
    for word in words:
        name = _UNITS.get(word) or _UNITS.get(word.lower()) or _UNITS.get(word.lower().removesuffix("s"))
        if word.lower() in ("percent", "percentage", "pct") and not percent:
            percent = True
        elif word.lower() in _SCALES:
            scale *= _SCALES[word.lower()]
        elif name:
            known.append(name)
        elif word.lower() in _NO_UNITS or len(word) == 1:
            return text, Unit()
    # 5m and x cm may well be products; 5 m, 5cm, 5\text{m} and x\text{ cm} are not.
    attached = rest[0] not in " \\" and (len(words[0]) == 1 or words[0] not in _UNITS) if words else True
    is_product = "\\" not in rest and "°" not in tail[0] and "%" not in tail[0] and _LETTER.search(value)
    return (text, Unit()) if attached or is_product else (value, Unit(scale, percent, tuple(sorted(known))))


_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"([+-]?) ?(?:(\d+) (?=\d+ ?/))?({_DECIMAL})(?: ?/ ?({_DECIMAL}))?(?:[eE]([+-]?\d{{1,4}}))?"
    r"|([+-]?) ?(\d*)\.(\d*)\\overline\{(\d+)\}"
)


def number(text: str) -> Fraction | None:
    """The value of an integer, decimal, fraction or mixed number; None if it is none, or has thousands of digits."""
    if text[:1] + text[-1:] == "()" and "," not in text:
        text = text[1:-1]
    text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r" \1/\2", text).strip()
    text = re.sub(r"^([+-]?)(?=10 ?\^)", r"\g<1>1*", text)
    text = re.sub(r" ?(?:\\times|\\cdot|\*|x) ?10 ?\^ ?(?:\{ ?([+-]?\d+) ?\}|(\d+))$", r"e\1\2", text)
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, whole, above, below, power, other_sign, before, after, again = match.groups()
    try:
        if again:  # 0.1\overline{6} = (16 - 1) / (100 - 10)
            value = Fraction(int(before + after + again) - int(before + after or "0"))
            value /= 10 ** len(after + again) - 10 ** len(after)
        else:
            dividend, divisor = (Fraction(re.sub("[ ,]", "", digits or "1")) for digits in (above, below))
            value = (int(whole or 0) + dividend / divisor) * Fraction(10) ** int(power or 0)
    except (ValueError, ZeroDivisionError):
        return None
    return -value if "-" in (sign, other_sign) else value
