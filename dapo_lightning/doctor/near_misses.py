"""The wrong answers that look most like right ones, for a person to read: the reward may be mistaken about them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from dapo_lightning.types import Group

_COMPARED, _TAIL = 300, 40  # characters of an answer, and at the end of a text
_LIKE = 0.3


@dataclass(frozen=True)
class NearMiss:
    """A completion that counts as wrong, and may be cut off. `likeness` is 1 if it gives the reference character for
    character."""

    source: str
    prompt: str
    reference: str
    answer: str | None
    text: str
    cut_off: bool
    likeness: float


def near_misses(groups: Sequence[Group], number: int = 10) -> list[NearMiss]:
    """Returns the wrong completions that are most like their references, at most one of each answer to a prompt."""
    found: dict[tuple[str, str | None], NearMiss] = {}
    for group in groups:
        prompt = group.prompt
        for text, grade, cut_off in zip(group.texts, group.grades, group.truncated_G().tolist(), strict=True):
            had_no_room = grade.answer is None and cut_off
            if grade.correct or grade.failure is not None or had_no_room or not prompt.answer.strip():
                continue
            likeness = _likeness(text, grade.answer, prompt.answer)
            miss = NearMiss(prompt.source, prompt.text, prompt.answer, grade.answer, text, cut_off, likeness)
            found.setdefault((prompt.source, grade.answer), miss)
    like = [miss for miss in found.values() if miss.likeness > _LIKE]
    return sorted(like, key=lambda miss: -miss.likeness)[:number]


def _likeness(text: str, answer: str | None, reference: str) -> float:
    """How much the answer is like the reference; a text that mentions the reference at its end, but gives no answer,
    counts half."""
    if answer is None:
        tail = text[-len(reference) - _TAIL :]
        return 0.5 * bool(re.search(rf"(?<!\w){re.escape(reference.strip())}(?!\w)", tail))
    return SequenceMatcher(None, _plain(answer), _plain(reference), autojunk=False).ratio()


def _plain(text: str) -> str:
    return "".join(character for character in text[:_COMPARED].casefold() if character.isalnum() or character in "+-/.")
