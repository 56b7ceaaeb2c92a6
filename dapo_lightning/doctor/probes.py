"""Completions whose grade is known beforehand: what no reward should accept, and grades that should not change."""

from __future__ import annotations

from collections.abc import Sequence

from dapo_lightning.doctor.finding import Finding, found, quoted
from dapo_lightning.doctor.references import Form, grade
from dapo_lightning.reward import Reward
from dapo_lightning.types import Grade, Group, Prompt

_NUM = 64  # rows that are probed
_MANY = 0.2  # share of wrong answers that are accepted: a few may equal the reference in another spelling


def accepts_anything(reward: Reward, prompts: Sequence[Prompt], form: Form | None) -> list[Finding]:
    """Finds that the reward accepts an empty completion, or the answer of another row."""
    rows = list(prompts[:: max(1, len(prompts) // _NUM)][:_NUM])
    findings = []
    if num := sum(one.correct for one in grade(reward, rows, [""] * len(rows))):
        findings += found(
            "accepts_nothing", f"The reward counts an empty completion as right on {num} of {len(rows)} rows."
        )
    if form is None:
        return findings
    pairs = [
        (p, q.answer) for p, q in zip(rows, [*rows[1:], rows[0]], strict=True) if p.answer.strip() != q.answer.strip()
    ]
    grades = grade(reward, [p for p, _ in pairs], [form(answer) for _, answer in pairs])
    accepted = [(*pair, one) for pair, one in zip(pairs, grades, strict=True) if one.correct]
    if accepted and len(accepted) > _MANY * len(pairs):
        findings += found(
            "accepts_wrong",
            f"The reward counts the answer of another row as right on {len(accepted)} of {len(pairs)} rows.",
            (f"{p.source}: {quoted(answer)} for {quoted(p.answer)}" for p, answer, _ in accepted),
        )
    return findings


def unstable(reward: Reward, groups: Sequence[Group]) -> list[Finding]:
    """Finds completions that get another grade when they are graded again."""
    rows = [(g.prompt, text, one) for g in groups for text, one in zip(g.texts, g.grades, strict=True)]
    rows = [row for row in rows if row[2].failure is None]
    rows = rows[:: max(1, len(rows) // _NUM)][:_NUM]
    again = grade(reward, [prompt for prompt, _, _ in rows], [text for _, text, _ in rows])
    changed = [(*row, two) for row, two in zip(rows, again, strict=True) if _verdict(row[2]) != _verdict(two)]
    if not changed:
        return []
    return found(
        "unstable",
        f"{len(changed)} of {len(rows)} completions got another grade when they were graded again, so the reward is "
        "partly noise.",
        (f"{p.source}: {one.score:g}, then {two.score:g}: {quoted(text)}" for p, text, one, two in changed),
    )


def _verdict(one: Grade) -> tuple[float, bool, str | None]:
    return one.score, one.correct, one.failure
