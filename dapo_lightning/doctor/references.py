"""Whether each reference answer, written as a completion, grades itself right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from dapo_lightning.doctor.finding import Finding, found, quoted
from dapo_lightning.reward import Reward, RewardError
from dapo_lightning.reward.weighted import Weighted
from dapo_lightning.types import Grade, Prompt

Form = Callable[[str], str]
"""Answer -> a completion that gives it."""

_TRIED, _CHUNK = 16, 256  # rows on which the forms are compared, and rows of a call of the reward


@dataclass(frozen=True)
class References:
    """The outcome.

    Args:
        usable: the prompts whose references the reward can read.
        findings: faults.
        form: how an answer is written so that the reward finds it; None if no form is known.
        num_graded: the references that were graded, in this form or, if it failed, in others.
        num_right: how many of them grade themselves right.
        stages: how many of the right ones each stage of the reward decided, if it names stages.
    """

    usable: tuple[Prompt, ...]
    findings: tuple[Finding, ...]
    form: Form | None
    num_graded: int
    num_right: int
    stages: dict[str, int]

    @property
    def is_graded(self) -> bool:
        """Whether the reward works at all."""
        return not any(finding.kind == "reward_fails" for finding in self.findings)

    def usable_of(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Returns those of some prompts that are usable."""
        usable = {id(prompt) for prompt in self.usable}
        return [prompt for prompt in prompts if id(prompt) in usable]


def grade(reward: Reward, prompts: Sequence[Prompt], texts: Sequence[str], bar: str | None = None) -> list[Grade]:
    """Grades one completion for each prompt.

    Raises:
        RewardError, ValueError: if the reward cannot be used.
    """
    grades: list[Grade] = []
    with tqdm(total=len(texts), desc=bar, unit="row", disable=bar is None) as shown:
        for start in range(0, len(texts), _CHUNK):
            part = slice(start, start + _CHUNK)
            grades += reward(prompts[part], texts[part])
            shown.update(len(texts[part]))
    return grades


def forms(reward: Reward) -> list[Form]:
    """Ways of writing an answer, those that the reward documents first."""
    judge = reward.parts[reward.correctness] if isinstance(reward, Weighted) else reward
    marker = getattr(judge, "marker", None)
    templates = [f"{marker}%s"] if marker else []
    templates += [r"\boxed{%s}", "%s", "<answer>%s</answer>", "Answer: %s", "#### %s", "```python\n%s\n```"]
    return [lambda answer, template=template: template % answer for template in templates]  # type: ignore[misc]


def check_references(reward: Reward, prompts: Sequence[Prompt]) -> References:
    """Grades all references that can be read in the form in which most of the first rows grade themselves right, and
    those that are wrong in every other form, too."""
    usable, unread = _usable(reward, prompts)
    rows = [prompt for prompt in usable if prompt.answer.strip()]  # others have tests instead, or nothing
    if not rows:
        return References(usable, unread, None, 0, 0, {})
    try:
        tried = rows[:: max(1, len(rows) // _TRIED)][:_TRIED]
        right = [
            (sum(grade.correct for grade in grade(reward, tried, [form(p.answer) for p in tried])), form)
            for form in forms(reward)
        ]
        best, form = max(right, key=lambda pair: pair[0])
        if not best:
            return References(usable, (*unread, *_none_right(reward, tried)), None, len(tried), 0, {})
        grades = grade(reward, rows, [form(p.answer) for p in rows], bar="references")
        wrong = [(p, grade) for p, grade in zip(rows, grades, strict=True) if not grade.correct]
        for other in forms(reward):
            if wrong:
                again = grade(reward, [p for p, _ in wrong], [other(p.answer) for p, _ in wrong])
                wrong = [pair for pair, grade in zip(wrong, again, strict=True) if not grade.correct]
    except (RewardError, ValueError) as error:
        failed = found("reward_fails", f"The reward cannot grade: {error}")
        return References(usable, (*unread, *failed), None, 0, 0, {})
    stages = Counter(grade.stage for grade in grades if grade.correct and grade.stage)
    findings = _not_right(wrong, len(rows)) if wrong else []
    return References(usable, (*unread, *findings), form, len(rows), len(rows) - len(wrong), dict(stages))


def _usable(reward: Reward, rows: Sequence[Prompt]) -> tuple[tuple[Prompt, ...], tuple[Finding, ...]]:
    try:
        usable = reward.usable(rows)
    except ValueError:  # none is
        usable = []
    kept = {id(prompt) for prompt in usable}
    unread = [prompt for prompt in rows if id(prompt) not in kept]
    if not unread:
        return tuple(usable), ()
    findings = found(
        "unreadable",
        f"The reward cannot read {len(unread)} of {len(rows)} reference answers, which a run refuses or, with "
        "reward.unreadable=skip, leaves out.",
        (f"{prompt.source}: {quoted(prompt.answer)}" for prompt in unread),
    )
    return tuple(usable), tuple(findings)


def _none_right(reward: Reward, tried: Sequence[Prompt]) -> tuple[Finding, ...]:
    asked = f" The reward looks for {reward.answer_form}." if reward.answer_form else ""
    return tuple(
        found(
            "reference_wrong",
            f"none of {len(tried)} reference answers grades itself right, in any form that was tried.{asked} Check "
            "that the answer column is the one that the reward compares with.",
            (f"{p.source}: {quoted(p.answer)}" for p in tried),
        )
    )


def _not_right(wrong: Sequence[tuple[Prompt, Grade]], num_rows: int) -> list[Finding]:
    def described(prompt: Prompt, grade: Grade) -> str:
        why = grade.detail or grade.failure or (f"decided by {grade.stage}" if grade.stage else "wrong")
        return f"{prompt.source}: {quoted(prompt.answer)} ({why[:120]})"

    return found(
        "reference_wrong",
        f"{len(wrong)} of {num_rows} reference answers do not grade themselves right, so every completion of these "
        "rows will be wrong. Correct the rows or the reward.",
        (described(*pair) for pair in wrong),
    )
