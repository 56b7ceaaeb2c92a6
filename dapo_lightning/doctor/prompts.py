"""Faults of the prompts, which can be found without a policy: their lengths, and rows that repeat each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from dapo_lightning.doctor.finding import Finding, found
from dapo_lightning.draws.overlap import key_of, repeated
from dapo_lightning.types import Prompt

_GUESSED = 0.6  # share of the rows with the same answer from which guessing it pays


def too_long(lengths: Mapping[str, Sequence[int]], prompts: Mapping[str, Sequence[Prompt]], most: int | None,
             limit: str) -> list[Finding]:  # fmt: skip
    """Finds prompts of more than `most` tokens.

    Args:
        lengths: tokens of the prompts of each split.
        limit: what limits them, for the sentence.
    """
    rows = [
        (length, f"{prompt.source}: {length} tokens")
        for split, of_split in prompts.items()
        for length, prompt in zip(lengths[split], of_split, strict=True)
        if most is not None and length > most
    ]
    if not rows:
        return []
    total = sum(map(len, prompts.values()))
    longest_first = [row for _, row in sorted(rows, key=lambda pair: -pair[0])]
    return found(
        "too_long", f"{len(rows)} of {total} prompts are longer than {limit}, so they are left out.", longest_first
    )


def duplicates(split: str, rows: Sequence[Prompt], are_drawn: bool) -> list[Finding]:
    """Finds prompts of a split that occur more than once (unless they are drawn at random from few, which repeats them
    by design), and those among them whose answers differ."""
    same: dict[tuple[str, ...], list[Prompt]] = defaultdict(list)
    for prompt in rows:
        same[key_of(prompt)].append(prompt)
    several = [prompts for prompts in same.values() if len(prompts) > 1]
    contradict = [prompts for prompts in several if len({prompt.answer.strip() for prompt in prompts}) > 1]
    findings = []
    if contradict:
        findings += found(
            "contradiction",
            f"{len(contradict)} {split} prompts occur with different answers, so right completions may count as wrong.",
            (", ".join(f"{prompt.source}: {prompt.answer[:40]!r}" for prompt in prompts) for prompts in contradict),
        )
    if several and not are_drawn:
        num = sum(len(prompts) - 1 for prompts in several)
        findings += found(
            "duplicate",
            f"{num} of {len(rows)} {split} prompts repeat an earlier one, so they count more often than others.",
            (", ".join(prompt.source for prompt in prompts) for prompts in several),
        )
    return findings


def in_both(train: Sequence[Prompt], held_out: Mapping[str, Sequence[Prompt]]) -> list[Finding]:
    """Finds held-out prompts, by split, that are also train prompts."""
    findings = []
    for name, prompts in held_out.items():
        if pairs := repeated(train, prompts):
            findings += found(
                "in_both",
                f"{len(pairs)} of {len(prompts)} {name} prompts are also train prompts, so their scores say little "
                "about new prompts.",
                (f"{one} equals {other}" for one, other in pairs),
            )
    return findings


def same_answer(train: Sequence[Prompt]) -> list[Finding]:
    """Finds an answer that so many rows have that a policy may learn to guess it."""
    answers = Counter(prompt.answer.strip() for prompt in train if prompt.answer.strip())
    answer, count = answers.most_common(1)[0] if answers else ("", 0)
    if count <= _GUESSED * len(train) or len(train) < 2:
        return []
    return found(
        "same_answer",
        f"{count} of {len(train)} train rows have the answer {answer[:40]!r}, so guessing it pays more than solving.",
    )
