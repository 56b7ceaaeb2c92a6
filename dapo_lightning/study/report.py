"""The table of a sweep: study.md for people, study.csv for programs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd  # type: ignore[import-untyped]

from dapo_lightning.study.held_out_sets import Columns, columns_of_sets
from dapo_lightning.study.intervals import intervals
from dapo_lightning.study.ladder import full_dapo, ladder_step, previous_step, roles
from dapo_lightning.study.measures import END_SHARE, END_STEPS, NAMES
from dapo_lightning.study.variants import Variant, at_k, completions_per_prompt
from dapo_lightning.utils.table import number, table

NONE = "–"
MEDIANS = ["gradient_steps", "minutes"]

TABLES: dict[str, Columns] = {
    "What was learned": (
        ("avg@k", "avg", "{:.3f}"),
        ("pass@k", "pass", "{:.3f}"),
        ("avg - previous ladder step", "avg_minus_previous_step", "{:+.3f}"),
        ("avg - full DAPO", "avg_minus_dapo", "{:+.3f}"),
        ("entropy", "entropy", "{:.3f}"),
        ("truncated, held-out", "truncated_held_out", "{:.1%}"),
        ("truncated, training", "truncated_training", "{:.1%}"),
    ),
    "Accuracy over the whole run": (
        ("avg@k over the run", "avg_of_run", "{:.3f}"),
        ("- previous ladder step", "avg_of_run_minus_previous_step", "{:+.3f}"),
        ("- full DAPO", "avg_of_run_minus_dapo", "{:+.3f}"),
    ),
    "Completions over the whole run": (
        ("entropy", "entropy_of_run", "{:.3f}"),
        ("- full DAPO", "entropy_of_run_minus_dapo", "{:+.3f}"),
        ("truncated", "truncated_of_run", "{:.2%}"),
        ("- full DAPO", "truncated_of_run_minus_dapo", "{:+.2%}"),
        ("length", "length_of_run", "{:.1f}"),
        ("- full DAPO", "length_of_run_minus_dapo", "{:+.1f}"),
    ),
    "What it cost": (
        ("gradient steps", "gradient_steps", "{:,.0f}"),
        ("minutes", "minutes", "{:.1f}"),
        ("tokens per useful group", "tokens_per_useful_group", "{:,.0f}"),
        ("useful groups", "useful_group_share", "{:.1%}"),
    ),
}
READING = f"""\
- avg@k, pass@k (k completions per held-out prompt) and held-out truncation are those of the evaluation after the last
  DAPO step.
- avg@k over the run is the mean height of its curve, from before the first DAPO step to after the last; it shows who
  learns sooner. Entropy, truncation and length (tokens) over the run are means over all steps of training.
- `±` is the half-width of a 95 % confidence interval over seeds (Student's t), not over prompts. A single seed has
  none: `± {NONE}`.
- Differences are paired: they are means over the seeds that both variants have finished, and the intervals are those of
  the differences. The number of these seeds is in brackets if it is not the variant's. A variant is compared with the
  ladder step and the DAPO variant that have the same overrides, or else with DAPO without overrides, and only on the
  same task.
- Each set of `evaluation.sets` has a table of its own. Its reward is the mean score of its completions.
- Entropy (nats per token) and training truncation at the end are means over the last {END_SHARE:.0%} of the DAPO steps,
  but at least {END_STEPS}.
- Tokens per useful group are the tokens generated in training per group trained on that had both correct and wrong
  completions. Useful groups are given as a share of all groups used up.
- Minutes are those of generating, grading and updating, without warm start and evaluations. Minutes and gradient steps
  are medians over seeds.
- The tables contain finished runs only; the figures show unfinished runs, too."""


def tables(results: pd.DataFrame) -> dict[str, Columns]:
    """Returns all tables by title, with one for each set of `evaluation.sets` after the first."""
    (title, first), *others = TABLES.items()
    of_sets = {f"Held-out set {name}": columns for name, columns in columns_of_sets(results.columns).items()}
    return {title: first, **of_sets, **dict(others)}


def results_table(variants: Sequence[Variant]) -> pd.DataFrame:
    """Returns the rows of study.csv, one per variant, with NA where there is no number.

    `_ci95` is the half-width of the interval, `_seeds` the number of seeds in a mean.
    """
    rows: list[dict[str, object]] = []
    for variant in variants:
        beside = [other for other in variants if other.extras == variant.extras]
        is_on_ladder = not variant.extras or sum(ladder_step(other) is not None for other in beside) > 1
        row: dict[str, object] = {
            "variant": variant.name,
            "same_settings_as": " ".join(sorted(roles(variant) - {variant.experiments[0]})),
            "ladder_step": ladder_step(variant) if is_on_ladder else None,
            "seeds": len(variant.finished),
            "unfinished": len(variant.runs) - len(variant.finished),
            "k": " ".join(map(str, completions_per_prompt([variant]))),
        }
        found = {"": intervals(variant.results)}
        for suffix, other in {"_minus_previous_step": previous_step, "_minus_dapo": full_dapo}.items():
            theirs = compared.results if (compared := other(variants, variant)) else pd.DataFrame(index=NAMES)
            # Differences of equal seeds are free of what a seed does to both: its warm start, its prompts.
            found[suffix] = intervals(variant.results - theirs)
        for suffix, numbers in found.items():
            row |= numbers["mean"].add_suffix(suffix)
            row |= numbers["half_width"].add_suffix(f"{suffix}_ci95")
            row |= numbers["count"].where(numbers["count"] > 0).add_suffix(f"{suffix}_seeds")
        rows.append(row | variant.results.loc[MEDIANS].median(axis=1).to_dict())
    return pd.DataFrame(rows).convert_dtypes()


def as_csv(results: pd.DataFrame) -> str:
    """Returns the text of study.csv. An apostrophe precedes each text that a spreadsheet would take for a formula."""
    return results.replace(r"^(?=[=+\-@\t\r])", "'", regex=True).to_csv(index=False)


def as_markdown(
    results: pd.DataFrame, variants: Sequence[Variant], notes: Sequence[str], figures: Sequence[str], sweep: str
) -> str:
    """Returns the text of study.md, from the rows of study.csv."""
    rows = [row for _, row in results.iterrows()]

    def as_table(columns: Columns) -> str:
        header = ["variant", "ladder step", "seeds", *(at_k(title, variants) for title, _, _ in columns)]
        return table(header, [cells(row, columns) for row in rows])

    k = ", ".join(map(str, completions_per_prompt(variants))) or "unknown"
    sections = {title: as_table(columns) for title, columns in tables(results).items()} | {
        "How to read it": f"- k = {k} completions per held-out prompt.\n{READING}",
        "Notes": "\n".join(f"- {note}" for note in notes or ["No anomalies."]),
        "Figures": "\n".join(f"- [{name}]({name})" for name in figures) or "- none",
    }
    return "\n\n".join([f"# Study of {sweep}", *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def cells(row: pd.Series, columns: Columns) -> list[str]:
    """Returns a row of a table as text: the variant, its ladder step, its seeds, and the columns."""
    return [*_first(row), *(_cell(row, name, form) for _, name, form in columns)]


def _first(row: pd.Series) -> list[str]:
    """Returns the variant with the experiments of the same settings, its step of the ladder, and its seeds."""
    same = ", ".join(row["same_settings_as"].split())
    name = f"{row['variant']} (= {same})" if same and " " not in row["variant"] else row["variant"]
    seeds = f"{row['seeds']} of {row['seeds'] + row['unfinished']}" if row["unfinished"] else str(row["seeds"])
    return [name, NONE if pd.isna(row["ladder_step"]) else str(row["ladder_step"]), seeds]


def _cell(row: pd.Series, name: str, form: str) -> str:
    if pd.isna(row.get(name)):
        return NONE
    half_width, count = row.get(f"{name}_ci95"), row.get(f"{name}_seeds")
    interval = NONE if pd.isna(half_width) else number(half_width, form.replace("+", ""))
    fewer = f" ({count})" if count != row["seeds"] else ""
    return number(row[name], form) + ("" if name in MEDIANS else f" ± {interval}{fewer}")
