"""`python -m dapo_lightning.study <sweep folder>`: the table and the paper's figures, from the runs of a sweep."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dapo_lightning.study import notes as oddities
from dapo_lightning.study.arms import group_by_settings
from dapo_lightning.study.figures import paper_figures, sweeps
from dapo_lightning.study.ladder import in_order
from dapo_lightning.study.report import as_markdown, write_csv
from dapo_lightning.study.runs import WHAT_A_RUN_IS, NoRunsError, Run, died_at_start, find_runs, read_run
from dapo_lightning.utils.atomic import replacing

HELP = f"""Reads the runs of a sweep, finished or not, and writes
  study.md, study.csv   a row per arm: held-out accuracy over seeds, paired differences, cost; and what was odd
  figures/*.png         the paper's figures, as far as their arms were run, and one per number that was swept

An arm is all runs that differ in nothing but the seed, compared by their resolved settings.

{WHAT_A_RUN_IS}

For the paper's Table 1 and the leave-one-outs, three seeds each:
  python train.py -m seed=0,1,2 experiment=ladder_0_grpo,ladder_1_overlong_filter,ladder_2_clip_higher,\\
ladder_3_soft_punishment,ladder_4_token_level,ladder_5_dynamic_sampling hydra.sweep.dir=outputs/sweeps/ladder
  python train.py -m seed=0,1,2 experiment=dapo_minus_clip_higher,dapo_minus_token_level,\\
dapo_minus_soft_punishment hydra.sweep.dir=outputs/sweeps/ladder/leave_one_out
  python -m dapo_lightning.study outputs/sweeps/ladder
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for a folder without runs, 1 for one that cannot be written."""
    parser = argparse.ArgumentParser(
        "python -m dapo_lightning.study", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="a folder with run folders anywhere below it")
    parser.add_argument("--output", type=Path, help="where to write (default: the sweep folder)")
    given = parser.parse_args(arguments)
    try:
        study(given.sweep, given.output or given.sweep)
    except NoRunsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # nowhere to write, or a folder that may not be read
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def study(sweep: Path, output: Path) -> None:
    """Reads a sweep, writes its table and figures into `output`, and prints the table.

    Raises:
        NoRunsError: if there is no training run.
    """
    folders = find_runs(sweep)
    found = [read_run(folder, sweep) for folder in tqdm(folders, "reading runs", delay=2, leave=False)]
    runs, notes = training_runs(found)
    if not runs:
        raise NoRunsError(f"{sweep} holds evaluations only, no training run.\n{WHAT_A_RUN_IS}")
    arms, of_grouping = group_by_settings(runs)
    arms = in_order(arms)
    paper, missing = paper_figures(arms)
    swept = sweeps(arms)

    from dapo_lightning.study.panels import draw, draw_sweep, styles  # matplotlib takes a second to import

    style, drawn = styles(arms), []
    with tqdm(total=len(paper) + len(swept), desc="drawing", delay=2, leave=False) as bar:
        for figure in paper:
            drawn.append(draw(figure, style, output / "figures"))
            bar.update()
        for one in swept:
            drawn.append(draw_sweep(one, style, output / "figures"))
            bar.update()

    notes += [*died_at_start(sweep), *of_grouping, *oddities.of_runs(runs), *oddities.of_arms(arms), *missing]
    text = as_markdown(arms, notes, [f"figures/{path.name}" for path in drawn], str(sweep))
    with replacing(output / "study.md") as partial:
        partial.write_text(text, encoding="utf-8")
    write_csv(arms, output / "study.csv")
    print(text)
    print("\n".join(["wrote", *(f"  {path}" for path in (output / "study.md", output / "study.csv", *drawn))]))


def training_runs(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Without those of `mode=evaluate`, which are named."""
    evaluations = [run for run in runs if (run.settings or {}).get("mode") == "evaluate"]
    notes = [f"{run.name}: left out, it only evaluates (mode=evaluate)." for run in evaluations]
    return [run for run in runs if run not in evaluations], notes


if __name__ == "__main__":
    sys.exit(main())
