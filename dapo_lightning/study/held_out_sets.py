"""The sets of `evaluation.sets` in the tables of a sweep."""

from __future__ import annotations

from collections.abc import Collection

from dapo_lightning.utils.held_out import accuracies_of_sets

Columns = tuple[tuple[str, str, str], ...]  # title in study.md, column of study.csv, format of a number


def columns_of_sets(known: Collection[str]) -> dict[str, Columns]:
    """Returns the columns of each set, as far as they are among `known`: names of held-out metrics, such as
    gsm8k/avg@8, or columns of study.csv, which are called like the metrics."""
    return {
        of_set: tuple(
            (title, f"{of_set}/{name}", form) for title, name, form in _columns(avg) if f"{of_set}/{name}" in known
        )
        for of_set, avg in accuracies_of_sets(known)
    }


def _columns(avg: str) -> Columns:
    best = avg.replace("avg", "pass")
    return (
        (avg, avg, "{:.3f}"),
        (best, best, "{:.3f}"),
        ("avg - previous ladder step", f"{avg}_minus_previous_step", "{:+.3f}"),
        ("avg - full DAPO", f"{avg}_minus_dapo", "{:+.3f}"),
        ("reward", "reward/mean", "{:.3f}"),
        ("no answer", "reward/no_answer", "{:.1%}"),
        ("truncated", "truncated", "{:.1%}"),
    )
