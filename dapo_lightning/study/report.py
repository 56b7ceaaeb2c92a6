"""The table of a sweep: study.md for people, study.csv for programs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd  # type: ignore[import-untyped]

from dapo_lightning.study.intervals import intervals, paired_differences
from dapo_lightning.study.ladder import full_dapo, ladder_step, roles, step_before
from dapo_lightning.study.measures import END_SHARE, END_STEPS, NAMES
from dapo_lightning.study.variants import Variant, at_k, completions_per_prompt
from dapo_lightning.utils.table import table

NONE = "–"
MEDIANS = ["gradient_steps", "minutes"]

# title in study.md, column of study.csv, format of a number
LEARNT = (
    ("avg@k", "avg", "{:.3f}"),
    ("pass@k", "pass", "{:.3f}"),
    ("avg - ladder step before", "avg_minus_rung_before", "{:+.3f}"),
    ("avg - full DAPO", "avg_minus_dapo", "{:+.3f}"),
    ("entropy", "entropy", "{:.3f}"),
    ("truncated, held-out", "truncated_held_out", "{:.1%}"),
    ("truncated, training", "truncated_training", "{:.1%}"),
)
SOONER = (
    ("avg@k over the run", "avg_of_run", "{:.3f}"),
    ("- ladder step before", "avg_of_run_minus_rung_before", "{:+.3f}"),
    ("- full DAPO", "avg_of_run_minus_dapo", "{:+.3f}"),
)
BEHAVIOUR = (
    ("entropy", "entropy_of_run", "{:.3f}"),
    ("- full DAPO", "entropy_of_run_minus_dapo", "{:+.3f}"),
    ("truncated", "truncated_of_run", "{:.2%}"),
    ("- full DAPO", "truncated_of_run_minus_dapo", "{:+.2%}"),
    ("length", "length_of_run", "{:.1f}"),
    ("- full DAPO", "length_of_run_minus_dapo", "{:+.1f}"),
)
COST = (
    ("gradient steps", "gradient_steps", "{:,.0f}"),
    ("minutes", "minutes", "{:.1f}"),
    ("tokens per useful group", "tokens_per_useful_group", "{:,.0f}"),
    ("useful groups", "useful_group_share", "{:.1%}"),
)

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
        is_on_ladder = not variant.extras or sum(ladder_step(other) is not None for other in beside) > 1
        row: dict[str, object] = {
            "arm": variant.name,
            "same_settings_as": " ".join(sorted(roles(variant) - {variant.experiments[0]})),
            "rung": ladder_step(variant) if is_on_ladder else None,
            "seeds": len(variant.finished),
            "unfinished": len(variant.runs) - len(variant.finished),
            "k": " ".join(map(str, completions_per_prompt([variant]))),
        }
        found = {"": intervals(variant.results)}
        for suffix, other in {"_minus_rung_before": step_before, "_minus_dapo": full_dapo}.items():
            theirs = compared.results if (compared := other(variants, variant)) else pd.DataFrame(index=NAMES)
            found[suffix] = paired_differences(variant.results, theirs)
        for suffix, numbers in found.items():
            row |= numbers["mean"].add_suffix(suffix)
            row |= numbers["half_width"].add_suffix(f"{suffix}_ci95")
            row |= numbers["count"].where(numbers["count"] > 0).add_suffix(f"{suffix}_seeds")
        rows.append(row | variant.results.loc[MEDIANS].median(axis=1).to_dict())
    return pd.DataFrame(rows).convert_dtypes()


def as_markdown(
    results: pd.DataFrame, variants: Sequence[Variant], notes: Sequence[str], figures: Sequence[str], sweep: str
) -> str:
    """Returns the text of study.md, from the rows of study.csv."""
    rows = [row for _, row in results.iterrows()]

    def section(columns: Sequence[tuple[str, str, str]]) -> str:
        header = ["variant", "ladder step", "seeds", *(at_k(title, variants) for title, _, _ in columns)]
        return table(header, [[*_first(row), *(_cell(row, name, form) for _, name, form in columns)] for row in rows])

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


def _first(row: pd.Series) -> list[str]:
    """Returns the variant with the experiments of the same settings, its step of the ladder, and its seeds."""
    same = ", ".join(row["same_settings_as"].split())
    name = f"{row['arm']} (= {same})" if same and " " not in row["arm"] else row["arm"]
    seeds = f"{row['seeds']} of {row['seeds'] + row['unfinished']}" if row["unfinished"] else str(row["seeds"])
    return [name, NONE if pd.isna(row["rung"]) else str(row["rung"]), seeds]


def _cell(row: pd.Series, name: str, form: str) -> str:
    if pd.isna(row.get(name)):
        return NONE
    half_width, count = row.get(f"{name}_ci95"), row.get(f"{name}_seeds")
    interval = NONE if pd.isna(half_width) else form.replace("+", "").format(half_width)
    fewer = f" ({count})" if count != row["seeds"] else ""
    return form.format(row[name]) + ("" if name in MEDIANS else f" ± {interval}{fewer}")
