"""The table of a sweep: study.md for people, study.csv for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd  # type: ignore[import-untyped]

from dapo_lightning.study import ladder
from dapo_lightning.study.intervals import estimate, paired_difference
from dapo_lightning.study.measures import END_SHARE, END_STEPS
from dapo_lightning.study.variants import Variant, at_k, completions_per_prompt
from dapo_lightning.utils.table import table

NONE = "–"


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Args:
        name: in study.csv.
        measure: what is averaged over seeds.
        form: the format of a number in study.md.
        against: finds the variant that is subtracted, in pairs of the same seed.
        median: show the median over seeds, without an interval, in place of the mean.
    """

    title: str
    name: str
    measure: str
    form: str
    against: Callable[[Sequence[Variant], Variant], Variant | None] | None = None
    median: bool = False

    def values(self, variant: Variant, variants: Sequence[Variant]) -> dict[str, float | None]:
        """Returns the cells of study.csv: the value, half the width of its interval, and the number of seeds in it."""
        ours = variant.results[self.measure]
        if self.median:
            return {self.name: ours.median()}
        other = self.against(variants, variant) if self.against else None
        found = paired_difference(ours, other.results[self.measure]) if other else estimate(ours)
        if found is None or (self.against and other is None):
            return {self.name: None, f"{self.name}_ci95": None, f"{self.name}_seeds": None}
        return {self.name: found.mean, f"{self.name}_ci95": found.half_width, f"{self.name}_seeds": found.count}

    def cell(self, row: pd.Series) -> str:
        """Returns the cell of study.md, from a row of study.csv."""
        if pd.isna(row[self.name]):
            return NONE
        text, half_width = self.form.format(row[self.name]), row.get(f"{self.name}_ci95")
        if self.median:
            return text
        interval = NONE if pd.isna(half_width) else self.form.replace("+", "").format(half_width)
        count = row[f"{self.name}_seeds"]
        return f"{text} ± {interval}" + (f" ({count:.0f})" if count != row["seeds"] else "")


# fmt: off
LEARNT = (
    Column("avg@k", "avg", "avg", "{:.3f}"),
    Column("pass@k", "pass", "pass", "{:.3f}"),
    Column("avg - ladder step before", "avg_minus_rung_before", "avg", "{:+.3f}", ladder.step_before),
    Column("avg - full DAPO", "avg_minus_dapo", "avg", "{:+.3f}", ladder.full_dapo),
    Column("entropy", "entropy", "entropy", "{:.3f}"),
    Column("truncated, held-out", "truncated_held_out", "truncated_held_out", "{:.1%}"),
    Column("truncated, training", "truncated_training", "truncated", "{:.1%}"),
)
SOONER = (
    Column("avg@k over the run", "avg_of_run", "avg_of_run", "{:.3f}"),
    Column("- ladder step before", "avg_of_run_minus_rung_before", "avg_of_run", "{:+.3f}", ladder.step_before),
    Column("- full DAPO", "avg_of_run_minus_dapo", "avg_of_run", "{:+.3f}", ladder.full_dapo),
)
BEHAVIOUR = (
    Column("entropy", "entropy_of_run", "entropy_of_run", "{:.3f}"),
    Column("- full DAPO", "entropy_of_run_minus_dapo", "entropy_of_run", "{:+.3f}", ladder.full_dapo),
    Column("truncated", "truncated_of_run", "truncated_of_run", "{:.2%}"),
    Column("- full DAPO", "truncated_of_run_minus_dapo", "truncated_of_run", "{:+.2%}", ladder.full_dapo),
    Column("length", "length_of_run", "length_of_run", "{:.1f}"),
    Column("- full DAPO", "length_of_run_minus_dapo", "length_of_run", "{:+.1f}", ladder.full_dapo),
)
COST = (
    Column("gradient steps", "gradient_steps", "gradient_steps", "{:,.0f}", median=True),
    Column("minutes", "minutes", "minutes", "{:.1f}", median=True),
    Column("tokens per useful group", "tokens_per_useful_group", "tokens_per_useful_group", "{:,.0f}"),
    Column("useful groups", "useful_group_share", "useful_share", "{:.1%}"),
)
# fmt: on

READING = f"""\
- avg@k, pass@k (k completions per held-out prompt) and held-out truncation: of the evaluation after the last DAPO step.
- avg@k over the run: the mean height of its curve, from before the first DAPO step to after the last; it shows who
  learns sooner. Entropy, truncation and length (tokens) in the table below it: means over all steps of training.
- `±` is the half-width of a 95 % confidence interval over seeds (Student's t), not over prompts. A single seed has
  none: `± {NONE}`.
- Differences are paired: means over the seeds that both variants have finished, with the number of seeds in brackets
  if it is not the variant's; the interval is that of the differences. A variant is compared with the ladder step and
  with the DAPO variant that share its other overrides, else with DAPO without overrides; always on the same task.
- Entropy (nats per token) and training truncation at the end: means over the last {END_SHARE:.0%} of the DAPO steps, at
  least {END_STEPS}.
- Tokens per useful group: tokens generated in training per group trained on that had both right and wrong
  completions. Useful groups: their share of all groups used up.
- Minutes: generating, grading and updating, without warm start and evaluations. Minutes and gradient steps are medians
  over seeds.
- The tables contain finished runs only; the figures show unfinished runs, too."""


def results_table(variants: Sequence[Variant]) -> pd.DataFrame:
    """Returns study.csv: a row per variant, nothing where there is no number.

    `_ci95` is the half-width of the interval, `_seeds` the number of seeds in a mean. The columns `arm` and `rung` hold
    the variant and its step of the ladder.
    """
    rows: list[dict[str, object]] = []
    for variant in variants:
        beside = [other for other in variants if other.extras == variant.extras]
        alone = variant.extras and sum(ladder.ladder_step(other) is not None for other in beside) < 2
        row: dict[str, object] = {
            "arm": variant.name,
            "same_settings_as": " ".join(sorted(ladder.roles(variant) - {variant.experiments[0]})),
            "rung": None if alone else ladder.ladder_step(variant),
            "seeds": len(variant.finished),
            "unfinished": len(variant.runs) - len(variant.finished),
            "k": " ".join(map(str, completions_per_prompt([variant]))),
        }
        for column in (*LEARNT, *SOONER, *BEHAVIOUR, *COST):
            row |= column.values(variant, variants)
        rows.append(row)
    return pd.DataFrame(rows).convert_dtypes()


def as_markdown(
    results: pd.DataFrame, variants: Sequence[Variant], notes: Sequence[str], figures: Sequence[str], sweep: str
) -> str:
    """Returns the text of study.md."""
    rows = [row for _, row in results.iterrows()]

    def section(columns: Sequence[Column]) -> str:
        header = ["variant", "ladder step", "seeds", *(at_k(column.title, variants) for column in columns)]
        cells = [[*_first_cells(row), *(column.cell(row) for column in columns)] for row in rows]
        return table(header, cells)

    k = ", ".join(map(str, completions_per_prompt(variants))) or "unknown"
    sections = {
        "What was learnt": section(LEARNT),
        "Over the whole run": f"{section(SOONER)}\n\n{section(BEHAVIOUR)}",
        "What it cost": section(COST),
        "How to read it": f"- k = {k} completions per held-out prompt.\n{READING}",
        "Notes": "\n".join(f"- {note}" for note in notes or ["No anomalies."]),
        "Figures": "\n".join(f"- [{name}]({name})" for name in figures) or "- none",
    }
    return "\n\n".join([f"# Study of {sweep}", *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def _first_cells(row: pd.Series) -> list[str]:
    """Returns the variant with the experiments of the same settings, its step of the ladder, and its seeds."""
    same = ", ".join(row["same_settings_as"].split())
    name = f"{row['arm']} (= {same})" if same and " " not in row["arm"] else row["arm"]
    seeds = f"{row['seeds']} of {row['seeds'] + row['unfinished']}" if row["unfinished"] else str(row["seeds"])
    return [name, NONE if pd.isna(row["rung"]) else str(row["rung"]), seeds]
