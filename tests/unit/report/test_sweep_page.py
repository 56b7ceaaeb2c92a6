"""The page of a sweep shows what the study shows."""

import pytest
from sweeps import write_ladder, write_run

from dapo_lightning.report.sweep_data import sweep_data
from dapo_lightning.study.report import as_markdown, results_table
from dapo_lightning.study.runs import find_runs, read_run
from dapo_lightning.study.variants import group_by_settings


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    sweep = write_ladder(tmp_path_factory.mktemp("sweeps") / "sweep", seeds=(0, 1))
    write_run(sweep / "unfinished", "dapo", seed=7, steps_done=13)
    (sweep / "ladder_0_grpo_0/report.html").write_text("the page of a run")
    return sweep


def test_the_tables_are_those_of_the_study(sweep):
    data = sweep_data(sweep, sweep)
    variants, _ = group_by_settings([read_run(folder, sweep) for folder in find_runs(sweep)])
    study = as_markdown(results_table(variants), variants, [], [], "x")
    cells = [cell for table in data["tables"] for row in table["rows"] for cell in row]
    assert len(cells) > 100 and all(cell in study for cell in cells)


def test_variants_that_are_not_in_the_paper_are_not_hidden_behind_those_that_are(tmp_path):
    for number, extra in enumerate([[], [], ["clip.upper=1.4"], ["clip.upper=1.5"], ["clip.upper=1.6"]]):
        write_run(tmp_path / str(number), ("grpo", "dapo")[number > 0], 0, extra, num_steps=10)
    first, ladder, *_ = sweep_data(tmp_path, tmp_path)["figures"]
    assert (first["title"], len(first["names"])) == ("every variant", 5) and len(ladder["names"]) == 2


def test_runs_side_by_side(sweep):
    data = sweep_data(sweep, sweep)
    runs = {run["name"]: run for run in data["runs"]}
    assert len(runs) == 19 and runs["unfinished"]["state"] == "step 13 of 40"
    assert (
        runs["ladder_0_grpo_0"]["page"] == "ladder_0_grpo_0/report.html"
        and runs["ladder_1_overlong_filter_0"]["page"] is None
    )
    elsewhere = sweep_data(sweep, sweep.parent / "published")["runs"]
    assert all(run["page"] is None for run in elsewhere)  # the links would lead out of what is copied
    assert runs["ladder_0_grpo_0"]["differs"]["clip"] == "symmetric"
    ladder = next(figure for figure in data["figures"] if figure["title"].startswith("Accuracy up the ladder"))
    assert len(ladder["names"]) == 6 and len(ladder["charts"]) == 3
    assert all(len(line["points"]) == 5 for chart in ladder["charts"] for line in chart["lines"])
