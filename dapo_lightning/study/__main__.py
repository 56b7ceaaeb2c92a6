"""`python -m dapo_lightning.study <sweep folder>`: the table and the paper's figures, from the runs of a sweep."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dapo_lightning.study.anomalies import describe_runs, missing_seeds
from dapo_lightning.study.comparison import BaselineError, compare, find_baseline
from dapo_lightning.study.figures import COMPARISON, FIGURES, describe_missing, of_held_out_sets, sweeps
from dapo_lightning.study.ladder import in_order, shown_in_figures
from dapo_lightning.study.report import as_csv, as_markdown, results_table
from dapo_lightning.study.runs import WHAT_A_RUN_IS, NoRunsError, describe_failed_starts, find_runs, read_run
from dapo_lightning.study.variants import Variant, group_by_settings
from dapo_lightning.utils.atomic import replacing
from dapo_lightning.utils.console import show_all_characters

HELP = f"""Reads the runs of a sweep, finished or not, and writes
  study.md, study.csv   a row per variant: held-out accuracy over seeds, paired differences, cost; and all anomalies
  figures/*.png         the paper's figures, as far as their variants were run, one of the sets of evaluation.sets,
                        and one per number that was swept

A variant consists of all runs that differ in nothing but the seed; their resolved settings are compared.

{WHAT_A_RUN_IS}

The paper's Table 1 and DAPO without single techniques, three seeds each:
  python train.py -m seed=0,1,2 experiment=ladder_0_grpo,ladder_1_overlong_filter,ladder_2_clip_higher,\\
ladder_3_soft_punishment,ladder_4_token_level,ladder_5_dynamic_sampling,\\
dapo_minus_clip_higher,dapo_minus_token_level,dapo_minus_soft_punishment hydra.sweep.dir=outputs/sweeps/ladder
  python -m dapo_lightning.study outputs/sweeps/ladder
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 without runs or without the variant of `--against`, 1 if a file cannot be accessed."""
    parser = argparse.ArgumentParser(
        "python -m dapo_lightning.study", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="a folder with run folders anywhere below it")
    parser.add_argument("--output", type=Path, help="where to write (default: the sweep folder)")
    parser.add_argument("--against", metavar="EXPERIMENT", help="compare all variants with that of this experiment")
    show_all_characters()
    parsed = parser.parse_args(arguments)
    try:
        study(parsed.sweep, parsed.output or parsed.sweep, parsed.against)
    except (NoRunsError, BaselineError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2
    return 0


def study(sweep: Path, output: Path, against: str | None = None) -> None:
    """Reads a sweep, writes its table and figures into `output`, and prints the table.

    Args:
        against: an experiment; all variants are then compared with its variant.

    Raises:
        NoRunsError: if there is no training run.
        BaselineError: if no single variant belongs to the experiment `against`.
    """
    found = [read_run(folder, sweep) for folder in tqdm(find_runs(sweep), "reading runs", delay=2, leave=False)]
    evaluations = [run for run in found if run.settings.get("mode") == "evaluate"]
    runs = [run for run in found if run.settings.get("mode") != "evaluate"]
    if not runs:
        raise NoRunsError(f"{sweep} contains evaluations only, no training run.\n{WHAT_A_RUN_IS}")
    grouped, on_grouping = group_by_settings(runs)
    variants = in_order(grouped)
    baseline = find_baseline(variants, against) if against else None
    drawn = draw_all(variants, output / "figures", with_comparison=baseline is not None)

    notes = [f"{run.name}: left out, because it is an evaluation (mode=evaluate)." for run in evaluations]
    notes += [*describe_failed_starts(sweep), *on_grouping, *describe_runs(runs)]
    notes += [*missing_seeds(variants), *describe_missing(variants)]
    results = results_table(variants)
    text = as_markdown(results, variants, notes, [f"figures/{path.name}" for path in drawn], str(sweep))
    text += f"\n{compare(variants, baseline)}\n" if baseline else ""
    for path, content in {output / "study.md": text, output / "study.csv": as_csv(results)}.items():
        with replacing(path) as partial:
            partial.write_text(content, encoding="utf-8")
    print(text)
    print("\n".join(["wrote", *(f"  {path}" for path in (output / "study.md", output / "study.csv", *drawn))]))


def draw_all(variants: Sequence[Variant], folder: Path, with_comparison: bool = False) -> list[Path]:
    """Draws the paper's figures and those of swept numbers, as far as their variants were run, and the figure of all
    variants if they are compared."""
    from dapo_lightning.study.panels import draw, draw_sweep, styles  # matplotlib takes a second to import

    shown, style = shown_in_figures(variants), styles(variants)
    chosen = [(figure, found) for figure in FIGURES if (found := figure.choose(shown))]
    everything = {variant.name: variant for variant in variants}
    chosen += [(figure, everything) for figure in [of_held_out_sets(variants)] if figure]
    chosen += [(COMPARISON, everything)] * with_comparison
    drawn = [draw(figure, found, style, folder) for figure, found in tqdm(chosen, "drawing", delay=2, leave=False)]
    return drawn + [draw_sweep(key, lines, style, folder) for key, lines in sweeps(variants).items()]


if __name__ == "__main__":
    sys.exit(main())
