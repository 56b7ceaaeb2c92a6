"""Gives equal answers one spelling."""

from __future__ import annotations

import re
import unicodedata

from dapo_lightning.grading.final_answer import closing_bracket

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
    """Spells an answer in one way: Unicode signs become LaTeX, dollars and spacing commands go, and so on."""
    answer = _RAISED.sub(lambda run: f"^{{{run[0]}}}", answer)
    answer = _LOWERED.sub(lambda run: f"_{{{run[0]}}}", answer)
    answer = unicodedata.normalize("NFKC", answer.translate(_PLAIN)).translate(_PLAIN)
    answer = _DIGIT.sub(lambda found: str(unicodedata.digit(found[0], found[0])), answer)
    for pattern, latex in _SPELLINGS:
        answer = pattern.sub(latex, answer)
    return _braced(answer).rstrip(" \\").removesuffix(".").strip()


def _braced(text: str) -> str:
    r"""Puts braces around the second argument of \frac{1}2, and in place of the parentheses in \sqrt(2) and x^(2)."""
    for found in reversed(list(re.finditer(r"\\frac\{|(?:\^|\\sqrt)\s*\(", text))):
        start = found.end() - 1
        stop = closing_bracket(text, start)
        if stop < 0:
            continue
        if text[start] == "(":
            text = f"{text[:start]}{{{text[start + 1 : stop]}}}{text[stop + 1 :]}"
        elif bare := re.match(r"\s*([0-9a-zA-Z])", text[stop + 1 :]):
            text = f"{text[: stop + 1]}{{{bare[1]}}}{text[stop + 1 + bare.end() :]}"
    return text
