"""Splits an answer into a variable, a value and a unit, and reads numbers exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_NAME = re.compile(
    r"((?:[A-Za-z][A-Za-z ]*+|\\text\{[A-Za-z ]*\} ?|\\[a-z]+ ?)(?:_\{?\w+\}? ?)?(?:\([a-z]\) ?)?"
    r"|\([a-z](?:, ?[a-z])*\) ?)(?:=|\\in(?![a-z]))"
)


def unassigned(gold: str, found: str) -> tuple[str, str]:
    """Drops a leading `x =` if only one of the two answers has one, or both have the same."""
    (gold_name, gold_value), (found_name, found_value) = _assignment(gold), _assignment(found)
    if gold_name == found_name:
        return gold_value, found_value
    if gold_name and "=" not in found:
        return gold_value, found
    return (gold, found_value) if found_name and "=" not in gold else (gold, found)


def _assignment(text: str) -> tuple[str, str]:
    """`x = 2` and `x = 1 + 1 = 2` -> x, 2; `x = 1, x = 2` -> x, `1, 2`; anything else -> "" and itself."""
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
    """The words after a number: the factor of words such as "million", whether it is a percentage, and known units."""

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
    """Splits simplified `text` into a value and the unit after it, if those words can only be a unit."""
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
    # 5m and x cm may well be products; 5 m, 5cm, 5\text{m} and x\text{ cm} cannot.
    attached = rest[0] not in " \\" and (len(words[0]) == 1 or words[0] not in _UNITS) if words else True
    is_product = "\\" not in rest and "°" not in tail[0] and "%" not in tail[0] and _LETTER.search(value)
    return (text, Unit()) if attached or is_product else (value, Unit(scale, percent, tuple(sorted(known))))


_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"([+-]?) ?(?:(\d+) (?=\d+ ?/))?({_DECIMAL})(?: ?/ ?({_DECIMAL}))?(?:[eE]([+-]?\d{{1,4}}))?"
    r"|([+-]?) ?(\d*)\.(\d*)\\overline\{(\d+)\}"
)


def number(text: str) -> Fraction | None:
    """Returns the value of an integer, decimal, fraction or mixed number; None of others, or of thousands of digits."""
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
