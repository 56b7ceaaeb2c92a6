"""Splits an answer into a value and a unit, and reads numbers in digits and in words."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

Dimensions = tuple[tuple[str, int], ...]


class Unit(NamedTuple):
    """What follows a number: the factor of words such as "million", the size of the unit, its dimensions, and whether
    it is a percentage."""

    scale: Fraction = Fraction(1)
    factor: Fraction = Fraction(1)
    dimensions: Dimensions = ()
    percent: bool = False


_BASES = """m meter metre | g gram gm | s sec second | l L liter litre | Hz hertz | W watt | V volt | J joule | N newton
| Pa pascal | A ampere amp | Ω ohm | eV | mol | B byte"""
_PREFIXES = {"n": "nano", "μ": "micro", "m": "milli", "c": "centi", "d": "deci", "k": "kilo", "M": "mega", "G": "giga"}
_POWERS = {"n": -9, "μ": -6, "m": -3, "c": -2, "d": -1, "k": 3, "M": 6, "G": 9}
# factor, base, names
_OTHERS = """60 s min minute | 3600 s h hr hour | 86400 s day | 604800 s week | 1 month month | 12 month year yr
| 1 in in inch inches | 12 in ft foot feet | 36 in yd yard | 63360 in mi mile | 1 lb lb pound | 1 oz oz ounce
| 1 gal gal gallon | 1 degree degree deg | 1 € € euro EUR | 1 £ £ GBP | 1 ¥ ¥ yen | 1 dollar dollar USD ＄
| 1/100 dollar cent"""
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}


def _table() -> dict[str, tuple[Fraction, str]]:
    table: dict[str, tuple[Fraction, str]] = {}
    for group in _BASES.split("|"):
        base, *words = group.split()
        for name in (base, *words):
            table[name] = Fraction(1), base
            for sign, prefix in _PREFIXES.items():
                table[(sign if len(name) < 3 else prefix) + name] = Fraction(10) ** _POWERS[sign], base
    for group in _OTHERS.split("|"):
        factor, base, *words = group.split()
        table.update(dict.fromkeys(words, (Fraction(factor), base)))
    return table


_UNITS = _table()
_TEENS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMBERS = dict(zip(_TEENS + _TENS, [*range(20), *range(20, 100, 10)], strict=True))
_ORDINALS = dict(
    zip("half third quarter fourth fifth eighth ninth twelfth".split(), [2, 3, 4, 4, 5, 8, 9, 12], strict=True)
)
# Words after a number that make another number of it, or none.
_NO_UNITS = set(
    "squared cubed doubled tripled halved factorial base mod times plus minus over root not no wrong incorrect to point"
    " more less fewer greater most least than only if except or tens ten lakh crore ones".split()
) | set(_NUMBERS)
_FRACTIONS = re.compile(r"(?:hal(?:f|ves)|thirds?|quarters?|(?:[a-z]+th|[a-z]+illion)s?)")
_PERCENTS = ("percent", "percentage", "pct", "%")
_POWER = r"(?:\^ ?\{? ?-?\d ?\}?)?"
_WORDS = r"\\text\{(?:[^{}\d^]|\^ ?\{?-?\d\}?)*\}"
_WORD = rf"(?:{_WORDS}{_POWER}|(?<![A-Za-z\\])[^\W\d_]++\.?{_POWER}|\\Omega|\\mu ?|[%°/€£¥＄])"
_TAIL = re.compile(rf"(?<=[^\s+*/=<>^_(\[-])(?:\s?{_WORD})++$")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z]")
_PIECE = re.compile(r"([^\W\d_]+|[%€£¥＄/])\.?(?:\^ ?\{? ?(-?\d) ?\}?)?")
_CURRENCY = re.compile(r"(-?)\s?([€£¥＄])\s?")


def measured(text: str, letters: bool = False) -> tuple[str, Unit]:
    r"""Splits simplified `text` into a value and the unit after it, if what stands there can only be a unit.

    Args:
        letters: whether a single letter after a space, as in `5 m`, is a unit; otherwise only \text{m} is.
    """
    if currency := _CURRENCY.match(text):
        text = currency[1] + text[currency.end() :] + f" {currency[2]}"
    tail = None if _TRIGONOMETRY.search(text) else _TAIL.search(text)
    if tail is None:
        return text, Unit()
    start = tail.start()
    value, rest = text[:start], tail[0]
    if not re.search(r"[\d})]$|\\(?:pi|infty)$|[°]$", value) or re.search(r"\\(?:pi|infty)?$", rest):
        return text, Unit()
    plain = re.sub(
        r"\\text|[{}](?!\^)", " ", rest.replace("°", " degree ").replace(r"\Omega", "Ω").replace(r"\mu", "μ")
    )
    pieces = [(found[1], int(found[2] or 1)) for found in _PIECE.finditer(plain.replace("}^", "^"))]
    words = [word for word, _ in pieces]
    if not words or any(_is_no_unit(word.lower()) for word in words):
        return text, Unit()
    # 5m and x cm may well be products; 5 m, 5cm, 5\text{m} and x\text{ cm} cannot.
    bare = "\\" not in rest and not re.search("[°%€£¥＄]", rest)
    is_attached = rest[0] != " "
    is_letter = len(words[0]) == 1 and (is_attached or not letters)
    if bare and words[0].isascii() and (is_letter or (is_attached and words[0] not in _UNITS)):
        return text, Unit()
    if (bare and _LETTER.search(value)) or sum(word in _PERCENTS for word in words) > 1:
        return text, Unit()
    return value, _unit(pieces)


def _is_no_unit(word: str) -> bool:
    return word in _NO_UNITS or (word not in _SCALES and bool(_FRACTIONS.fullmatch(word)))


def _unit(pieces: list[tuple[str, int]]) -> Unit:
    millions, factor, percent, dimensions = Fraction(1), Fraction(1), False, dict[str, int]()
    power, side = 1, 1
    for word, exponent in pieces:
        if word.lower() in _PERCENTS:
            percent = True
        elif word in ("/", "per"):
            side = -1
        elif word.lower() in ("square", "sq", "cubic", "cu"):
            power = 2 if word.lower().startswith("s") else 3
        elif word.lower() in _SCALES:
            millions *= _SCALES[word.lower()]
        else:
            size, base = _known(word)
            power *= exponent * side
            factor *= size**power
            dimensions[base] = dimensions.get(base, 0) + power
            power = 1
    return Unit(millions, factor, tuple(sorted((base, n) for base, n in dimensions.items() if n)), percent)


def _known(word: str) -> tuple[Fraction, str]:
    spellings = word, word.lower(), word.lower().removesuffix("s")
    return next((_UNITS[name] for name in spellings if name in _UNITS), (Fraction(1), spellings[-1]))


def in_words(text: str) -> Fraction | None:
    """Returns the number that English words say: of `minus seven`, `forty-two` or `three fifths`."""
    words = re.sub(r"[-,]| and ", " ", text.lower()).split()
    sign = -1 if words and words[0] in ("minus", "negative") else 1
    words = words[sign < 0 :]
    if sign < 0 and re.fullmatch(r"\d+", "".join(words)):
        return Fraction(-int(words[0]))
    total, part, divisor, below = Fraction(0), 0, 1, False
    for index, word in enumerate(words):
        stem = word.removesuffix("s").replace("halve", "half")
        ordinal = _ORDINALS.get(stem) or _NUMBERS.get(stem.removesuffix("th"), 0) * stem.endswith("th")
        if word in _NUMBERS:
            part += _NUMBERS[word]
        elif word == "hundred" and part:
            part *= 100
        elif word in ("thousand", "million", "billion") and part:
            total, part = total + part * _SCALES[word], 0
        elif ordinal and index == len(words) - 1 and (part or word == "half"):
            divisor, below = ordinal, True
        else:
            return None
    return sign * (total + (part or int(below))) / divisor if words else None
