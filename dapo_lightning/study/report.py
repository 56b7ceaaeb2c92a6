"""The table of a sweep: study.md for people, study.csv for machines."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dapo_lightning.study import ladder
from dapo_lightning.study.arms import Arm
from dapo_lightning.study.intervals import Estimate, estimate, paired_difference
from dapo_lightning.study.measures import END_SHARE, END_STEPS, by_seed, middle, values
from dapo_lightning.utils.atomic import replacing

NONE = "–"
Cell = Estimate | float | None


@dataclass(frozen=True)
class Column:
    """A column of the table; `name` is that of study.csv, `show` makes a cell of study.md."""

    title: str
    name: str
    cell: Callable[[Arm, Sequence[Arm]], Cell]
    show: Callable[[float], str]


def _mean(measure: str) -> Callable[[Arm, Sequence[Arm]], Cell]:
    return lambda arm, arms: estimate(values(arm, measure))


def _median(measure: str) -> Callable[[Arm, Sequence[Arm]], Cell]:
    return lambda arm, arms: middle(arm, measure)


def _difference(
    other: Callable[[Sequence[Arm], Arm], Arm | None], measure: str
) -> Callable[[Arm, Sequence[Arm]], Cell]:
    def cell(arm: Arm, arms: Sequence[Arm]) -> Cell:
        beside = other(arms, arm)
        return paired_difference(by_seed(arm, measure), by_seed(beside, measure)) if beside else None

    return cell


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


LEARNT = (
    Column("avg@k", "avg", _mean("avg"), "{:.3f}".format),
    Column("pass@k", "pass", _mean("pass"), "{:.3f}".format),
    Column("avg - rung before", "avg_minus_rung_before", _difference(ladder.rung_before, "avg"), "{:+.3f}".format),
    Column("avg - full DAPO", "avg_minus_dapo", _difference(ladder.full_dapo, "avg"), "{:+.3f}".format),
    Column("entropy", "entropy", _mean("entropy"), "{:.3f}".format),
    Column("truncated, held-out", "truncated_held_out", _mean("truncated_held_out"), _share),
    Column("truncated, training", "truncated_training", _mean("truncated"), _share),
)
_OF_RUN = "avg_of_run"
SOONER = (
    Column("avg@k over the run", _OF_RUN, _mean(_OF_RUN), "{:.3f}".format),
    Column("- rung before", "avg_of_run_minus_rung_before", _difference(ladder.rung_before, _OF_RUN), "{:+.3f}".format),
    Column("- full DAPO", "avg_of_run_minus_dapo", _difference(ladder.full_dapo, _OF_RUN), "{:+.3f}".format),
)


def _with_difference(title: str, form: str) -> tuple[Column, Column]:
    """A measure over the whole run, and its difference to full DAPO."""
    name, signed = f"{title}_of_run", form.replace(":", ":+")
    difference = _difference(ladder.full_dapo, name)
    return (
        Column(title, name, _mean(name), form.format),
        Column("- full DAPO", f"{name}_minus_dapo", difference, signed.format),
    )


BEHAVIOUR = (
    *_with_difference("entropy", "{:.3f}"),
    *_with_difference("truncated", "{:.2%}"),
    *_with_difference("length", "{:.1f}"),
)
COST = (
    Column("gradient steps", "gradient_steps", _median("gradient_steps"), "{:,.0f}".format),
    Column("minutes", "minutes", _median("minutes"), "{:.1f}".format),
    Column("tokens per useful group", "tokens_per_useful_group", _mean("tokens_per_useful_group"), "{:,.0f}".format),
    Column("useful groups", "useful_group_share", _mean("useful_share"), _share),
)


def as_markdown(arms: Sequence[Arm], notes: Sequence[str], figures: Sequence[str], sweep: str) -> str:
    """The whole of study.md. Arms are expected in the order of their rows."""
    found = sorted({run.k for arm in arms for run in arm.finished if run.k})
    k = ", ".join(map(str, found)) or "unknown: no run is finished"
    lines = [f"# Study of {sweep}", "", "## What was learnt", "", *_table(arms, LEARNT, found)]
    lines += ["", "## Over the whole run", "", *_table(arms, SOONER, found), "", *_table(arms, BEHAVIOUR, found)]
    lines += ["", "## What it cost", "", *_table(arms, COST, found), "", "## How to read it", "", *_reading(k)]
    lines += ["", "## Notes", "", *[f"- {note}" for note in notes or ["Nothing odd."]]]
    lines += ["", "## Figures", "", *([f"- [{name}]({name})" for name in figures] or ["- none"])]
    return "\n".join(lines) + "\n"


def _reading(k: str) -> list[str]:
    return [
        f"- k = {k} completions per held-out prompt. avg@k, pass@k and held-out truncation are those of the evaluation "
        "after the last DAPO step.",
        "- avg@k over the run: the mean height of its curve, from before the first DAPO step to after the last; it "
        "tells who learns sooner. Entropy, truncation and length (tokens) below it are of training, means over all "
        "steps.",
        "- `±` is the half-width of a 95 % confidence interval over seeds (Student's t), not over prompts. With one "
        f"seed there is none: `± {NONE}`.",
        "- Differences are paired: means over the seeds that both arms have finished, their number in "
        "brackets if it is not the arm's; the interval is that of the differences. An arm is compared with the rung "
        "and with the DAPO arm that share its other overrides, else with DAPO as the paper has it if that had the same "
        "task.",
        "- Entropy (nats per token) and training truncation at the end are means over the last "
        f"{100 * END_SHARE:.0f} % of the DAPO steps, at least {END_STEPS}.",
        "- Tokens per useful group: tokens generated in training per group trained on that had both right and wrong "
        "completions. Useful groups: their share of all groups used up.",
        "- Minutes: generating, grading and updating, without warm start and evaluations; median over seeds, as are "
        "gradient steps.",
        "- Only finished runs are in the tables; figures draw the others, too.",
    ]


def _table(arms: Sequence[Arm], columns: Sequence[Column], ks: Sequence[int]) -> list[str]:
    """A Markdown table, padded so that it reads as plain text."""
    at_k = f"@{ks[0]}" if len(ks) == 1 else "@k"
    head = ["arm", "rung", "seeds", *(column.title.replace("@k", at_k) for column in columns)]
    rows = [
        [title_of(arm), _rung_cell(arm, arms), _seeds(arm), *(_cell(column, arm, arms) for column in columns)]
        for arm in arms
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        _line(head, widths),
        "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|",
    ]
    return lines + [_line(row, widths) for row in rows]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]) + " |"


def title_of(arm: Arm) -> str:
    """The name of an arm, with the experiments of the same settings."""
    others = sorted(ladder.roles(arm) - {arm.experiments[0]})
    return arm.name + (f" (= {', '.join(others)})" if others and not arm.extras else "")


def _rung(arm: Arm, arms: Sequence[Arm]) -> int | None:
    """Of the ladder; an arm with overrides is only on one if other rungs have the same."""
    number = ladder.rung(arm)
    beside = [other for other in arms if other.extras == arm.extras and ladder.rung(other) is not None]
    return None if arm.extras and len(beside) < 2 else number


def _rung_cell(arm: Arm, arms: Sequence[Arm]) -> str:
    number = _rung(arm, arms)
    return NONE if number is None else str(number)


def _seeds(arm: Arm) -> str:
    finished, all_ = len(arm.finished), len(arm.runs)
    return str(all_) if finished == all_ else f"{finished} of {all_}"


def _cell(column: Column, arm: Arm, arms: Sequence[Arm]) -> str:
    value = column.cell(arm, arms)
    if value is None:
        return NONE
    if not isinstance(value, Estimate):
        return column.show(value)
    sure = NONE if value.half_width is None else column.show(value.half_width).lstrip("+")
    fewer = f" ({value.count})" if value.count != len(arm.finished) else ""
    return f"{column.show(value.mean)} ± {sure}{fewer}"


def write_csv(arms: Sequence[Arm], path: Path) -> None:
    """study.csv: a row per arm, numbers in full; empty where there is none. `_ci95` is the half-width of the interval,
    `_seeds` the number of seeds in a mean."""
    rows = [_csv_row(arm, arms) for arm in arms]
    columns = dict.fromkeys(name for row in rows for name in row)
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _csv_row(arm: Arm, arms: Sequence[Arm]) -> dict[str, object]:
    row: dict[str, object] = {
        "arm": arm.name,
        "same_settings_as": " ".join(sorted(ladder.roles(arm) - {arm.experiments[0]})),
        "rung": _rung(arm, arms),
        "seeds": len(arm.finished),
        "unfinished": len(arm.runs) - len(arm.finished),
        "k": " ".join(map(str, sorted({run.k for run in arm.finished if run.k}))),
    }
    for column in (*LEARNT, *SOONER, *BEHAVIOUR, *COST):
        value = column.cell(arm, arms)
        if isinstance(value, Estimate):
            numbers = {"": value.mean, "_ci95": value.half_width, "_seeds": value.count}
            row |= {f"{column.name}{suffix}": number for suffix, number in numbers.items()}
        else:
            row[column.name] = value
    return row
