"""Normalises the spelling of answers, so that equal answers are written in the same way."""

from __future__ import annotations

import re
import unicodedata

from dapo_lightning.grading.quantities import in_words

_SIGNS = r"""
× \times ✕ \times · \cdot ⋅ \cdot ∙ \cdot • \cdot ÷ / ∕ / ⁄ / ∞ \infty ± \pm ∓ \mp ≤ \leq ≥ \geq ⩽ \leq ⩾ \geq ≠ \neq
≦ \leq ≧ \geq ∠ \angle △ \triangle 、 , ⇒ \Rightarrow ∪ \cup ∩ \cap ∈ \in ∖ \setminus ≈ \approx
≡ \equiv ∣ \mid ∧ \land ∨ \lor ∅ \emptyset √ \sqrt π \pi θ \theta α \alpha β \beta γ \gamma δ \delta
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
_ROOT = re.compile(r"√ ?(\d+)")
_FRACTION = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹]+)⁄([₀₁₂₃₄₅₆₇₈₉]+)")
_DIGIT = re.compile(r"[^\W_a-zA-Z0-9]")
_FUNCTIONS = "exp|ln|log|(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?"
_REAL = r"\\mathbb{R}"


def _base(found: re.Match[str]) -> str:
    return f"_{{{found[2] or in_words(found[1]) or found[1]}}}"


def _interval(found: re.Match[str]) -> str:
    return f"{'[' if found[1] == '[' else '('}{found[2]}{']' if found[3] == ']' else ')'}"


_SPELLINGS = [
    (re.compile(pattern), latex)
    for pattern, latex in (
        (r"\\(?:color|textcolor|colorbox|tag|label|h?phantom|vphantom)\*?\s*\{[^{}]*\}", ""),  # marks, not mathematics
        (r"\\color\s*\\?[a-z]+", ""),
        (r"\\in\s*\\math(?:bf|rm|bb)\s*\{?\s*([RZNQC])\s*\}?", r"\\in " + r"\\mathbb{\1}"),
        (r"\\mathbb\s*\{?R\}?\s*[\^_]\s*\{?\+\}?", r"(0,\\infty)"),
        (r"\\(?:hat|vec)\s*\{?\s*\\?([ijk])(?:math)?(?![a-zA-Z])\s*\}?|\bUS(?=\\?\$)", r" \1 "),  # unit vectors
        (r"\\\$ ?(?=[\d.])", "＄"),  # after this, every other dollar sign delimits mathematics
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\.?|\\!|\\?\$|(?<!\\)\\[()\[\]]", ""),
        (
            r"\\(?:displaystyle|textstyle|limits|bf|it|rm|tiny|small|large|Large|LARGE|huge|Huge|underline|boldsymbol|bm"
            r"|mathbf|mathit|mathsf|math(?:op|bin|ord)|emph|boxed|fbox"
            r"|blacksquare|square|Box|checkmark|qed|dag)(?![a-zA-Z])",
            "",
        ),
        (r"\\(?:q?quad(?![a-zA-Z])|\n)|\n+(?=[A-Za-z]\w* ?=)", ","),
        (r"(?<!\\)\\[,;:>\s]|~", " "),
        (r"\\\\\s*\[[\d.]+ ?[a-z]{2}\]", r"\\\\"),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\[dt]binom", r"\\binom"),
        (r"\\(?:mathrm|mbox|text(?:bf|it|rm|sf|tt|normal)?|operatorname)\*?\s*\{", r"\\text{"),
        (r"\^\s*\{?\s*((?:\\prime\s*)+)\}?", lambda primes: "'" * primes[1].count("p")),
        (r"\\frac\s*\{d ?([a-z])\}\s*\{d ?[a-z]\}|(?<![A-Za-z\\])d([a-z])/d[a-z](?![A-Za-z])", r"\1\2'"),
        (r"\^\s*\{?\s*(?:\\(?:circ|degree)|\\text\{o\})\s*\}?|\\(?:circ|degree)(?![a-zA-Z])", "°"),
        (r"\\%", "%"),
        (r"\{,\}|(?<=\d)[٬'’](?=\d{3})", ","),
        (r"\\[lr]?vert(?![a-zA-Z])", "|"),
        (r"\\(?:lt|lbrace|rbrace|gt)(?![a-zA-Z])", lambda sign: {"lt": "<", "gt": ">"}.get(sign[0][1:], sign[0])),
        (r"\\le(?:q|qslant|qq)?(?![a-zA-Z])|<=", r"\\leq "),
        (r"\\ge(?:q|qslant|qq)?(?![a-zA-Z])|>=", r"\\geq "),
        (r"\\neq?(?![a-zA-Z])|\\not\s*=|!=(?!=)(?<!\d!=)", r"\\neq "),
        (r"\\simeq|\\doteq", r"\\approx "),
        (r"\\(?:varnothing|emptyset)|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\(begin|end)\{(?:[pbB]|small)?matrix\}|\\(begin|end)\{array\}(?:\{[lcr| ]*\})?", r"\\\1\2{pmatrix}"),
        (r"[(\[]\s*(\\begin\{pmatrix\})", r"\1"),
        (r"(?:\\\\\s*)?(\\end\{pmatrix\})\s*[)\]]", r"\1"),
        (r"\*\*", "^"),
        (r"\\big(cup|cap)", r"\\\1"),
        (r"\\colon(?![a-zA-Z])|\{:\}|(?<=\d)\s*\\text\{ ?to ?\}\s*(?=\d)", ":"),
        (r"\\dot ?\{?(\d)\}?(\d*)\\dot ?\{?(\d)\}?", r"\\overline{\1\2\3}"),
        (r"C_\{?([3-9]|\d\d+)\}?\^\{?(\d+)\}?|\^\{?(\d+)\}? ?C_\{?(\d+)\}?", r"\\binom{\1\3}{\2\4}"),
        (r"(?<=\})\s*\\cdot\s*(?=\\text\{)", " "),  # between units
        (r"(?<=\d)\^?(\{)?(\\text\{)?(?:st|nd|rd|th)\b(?(2)\})(?(1)\})", ""),
        (r"\((\d[\dA-F]*)\)(?=_)", r"\1"),
        (r"_\{ ?(?:\\text\{([a-z]+)\}|\((\d+)\)) ?\}", _base),
        (r"(?<![A-Za-z\\])(?:inf|infinity|infty)(?![A-Za-z])", r"\\infty "),
        (rf"\\text\{{ ?({_FUNCTIONS}) ?\}}|(?<![A-Za-z\\])({_FUNCTIONS}|pi|sqrt)(?![A-Za-z])", r"\\\1\2 "),
        (r"(?<![\d)}\]])([\[\]])([^\[\]]+[,;][^\[\]]+)([\[\]])(?=$|[ .,}]|\\cup)", _interval),  # ]2,3]
        (r"(?<=[)\]}])\s*(?:U|union)\s*(?=[(\[{\\])", r"\\cup "),
        (
            r"\\text\{[Aa]ll real\D*?(?:except|but|other than)(?: for)?\s*\}\s*(\S+)",
            _REAL + r"\\setminus\\{\1\\}",
        ),
        (r"\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}", lambda word: r"\lor " if "or" in word[0] else r"\land "),
        (
            r"(?<![A-Za-z\\{])(and|or)(?= ?(?:[\d\\({$+-]|[A-Za-z]\b))",
            lambda word: r"\lor " if word[1] == "or" else r"\land ",
        ),
        (r"\\(?:[cl]?dots|dots[bcimo]|hdots)(?![a-zA-Z])|…|⋯", "..."),
        (r"\\text\{ ?(gcd|lcm|max|min) ?\}|(?<![A-Za-z\\])(gcd|lcm|max|min)(?= ?\()", r"\\\1\2"),
        (r"\\text\{\s*([,;]?)\s*\}", r"\1"),
        (r"\\frac\{(\\text\{[^{}]*)\}\}\{\\text\{([^{}]*\})\}", r"\1/\2"),
        (r"(?<=\\mathbb\{R\}) ?- ?(?=\\\{)", r"\\setminus "),
        (r"^.*\\(?:Rightarrow|implies|therefore|Longrightarrow)(?![a-zA-Z])", ""),
        (r"\s+", " "),
    )
]


def simplified(answer: str) -> str:
    """Returns the normal spelling of an answer: Unicode signs become LaTeX, dollars are removed, and so on."""
    answer = _ROOT.sub(r"\\sqrt{\1}", answer)
    answer = _FRACTION.sub(r"\\frac{\1}{\2}", answer)
    answer = _RAISED.sub(
        lambda run: f"^{{{run[0]}}}" if run.start() and answer[run.start() - 1] != "{" else run[0], answer
    )
    answer = _LOWERED.sub(lambda run: f"_{{{run[0]}}}" if answer[run.start() - 1] != "{" else run[0], answer)
    answer = unicodedata.normalize("NFKC", answer.translate(_PLAIN)).translate(_PLAIN)
    answer = _DIGIT.sub(lambda found: str(unicodedata.digit(found[0], found[0])), answer)
    for pattern, latex in _SPELLINGS:
        answer = pattern.sub(latex, answer)
    answer = answer.strip().rstrip(" \\,;。")
    return answer if answer.endswith("...") else answer.removesuffix(".").strip()


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
