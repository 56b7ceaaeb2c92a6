"""The study of a sweep that is half-finished, damaged or mixed: each anomaly is named, and nothing is fatal."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil

import pytest
import yaml
from sweeps import write_run

from dapo_lightning.study import ladder
from dapo_lightning.study.__main__ import main
from dapo_lightning.study.runs import NoRunsError, find_runs

pytestmark = pytest.mark.usefixtures("undrawn")

TRACEBACK = """[2026-11-23][INFO] - step 3
Traceback (most recent call last):
  File "train.py", line 1, in main
    run()
ValueError: the first thing

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "train.py", line 2, in run
    1 / 0
ZeroDivisionError: division by zero
"""


@pytest.fixture
def sweep(tmp_path):
    """Two variants of two seeds, in order."""
    for experiment in ("dapo", "grpo"):
        for seed in (0, 1):
            write_run(tmp_path / "sweep" / f"{experiment}{seed}", experiment, seed, num_steps=10)
    return tmp_path / "sweep"


def study(sweep, tmp_path=None) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The notes, except those on figures that are left out, and the rows of study.csv."""
    assert main([str(sweep)]) == 0
    text = (sweep / "study.md").read_text()
    assert "nan" not in text and "nan" not in (sweep / "study.csv").read_text()
    notes = text.partition("## Notes\n\n")[2].partition("\n\n## Figures")[0].split("\n")
    rows = {row["variant"]: row for row in csv.DictReader((sweep / "study.csv").open())}
    return [note.removeprefix("- ") for note in notes if "is left out: it needs" not in note], rows


def noted(notes: list[str], *words: str) -> bool:
    return any(all(word in note for word in words) for note in notes)


def test_a_sweep_in_order_has_no_anomalies(sweep):
    notes, rows = study(sweep)
    assert [note for note in notes if "Steps of the ladder" not in note] == []
    assert [rows[name]["seeds"] for name in ("dapo", "grpo")] == ["2", "2"]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_without_runs_a_run_folder_is_described(make, tmp_path, capsys):
    make(tmp_path / "sweep")
    assert main([str(tmp_path / "sweep")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "config.yaml" in error and "metrics.csv" in error
    assert not (tmp_path / "sweep" / "study.md").exists()


def test_evaluations_are_no_training_runs(sweep, tmp_path, capsys):
    run = write_run(sweep / "evaluated", "dapo", 0, ["mode=evaluate"])
    notes, rows = study(sweep)
    assert noted(notes, "evaluated: left out", "mode=evaluate") and rows["dapo"]["seeds"] == "2"
    shutil.copytree(run, tmp_path / "only" / "one")
    assert main([str(tmp_path / "only")]) == 2 and "evaluations only" in capsys.readouterr().err


def test_an_unfinished_run_is_drawn_and_not_in_the_table(sweep):
    write_run(sweep / "dapo2", "dapo", 2, num_steps=10, steps_done=4, accuracy=lambda step: 99.0)
    notes, rows = study(sweep)
    assert noted(notes, "dapo2: unfinished: at step 4 of 10") and noted(notes, "grpo: no run of seed 2")
    assert float(rows["dapo"]["avg"]) < 1 and (rows["dapo"]["seeds"], rows["dapo"]["unfinished"]) == ("2", "1")
    assert "2 of 3 |" in (sweep / "study.md").read_text()


def test_a_variant_without_any_finished_run_has_dashes(sweep):
    write_run(sweep / "reinforce", "reinforce_clip", 0, num_steps=10, steps_done=0)
    notes, rows = study(sweep)
    assert rows["reinforce_clip"]["avg"] == "" and noted(notes, "reinforce: unfinished: at step 0 of 10")


def test_a_run_that_did_all_its_steps_counts_without_its_summary(sweep):
    (sweep / "dapo0" / "summary.json").unlink()
    notes, rows = study(sweep)
    assert rows["dapo"]["seeds"] == "2" and not noted(notes, "dapo0")


def test_a_run_that_was_extended_is_unfinished_in_spite_of_its_old_summary(sweep):
    config = sweep / "dapo0" / "config.yaml"
    config.write_text(config.read_text().replace("num_steps: 10", "num_steps: 20"))
    notes, rows = study(sweep)
    assert noted(notes, "dapo0: unfinished: at step 10 of 20")
    assert noted(notes, "different numbers of DAPO steps", "20 in dapo0")
    assert rows["dapo num_steps=20"]["seeds"] == "0" and rows["dapo num_steps=10"]["seeds"] == "1"


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (TRACEBACK, "ZeroDivisionError: division by zero"),
        (TRACEBACK + "[2026-11-23][INFO] - saved\n", "ZeroDivisionError: division by zero"),
        ("error: clip.upper=0.28 is too low\n", "error: clip.upper=0.28 is too low"),
    ],
)
def test_last_words_of_a_run_that_died(log, says, sweep):
    write_run(sweep / "died", "dapo", 2, num_steps=10, steps_done=3)
    (sweep / "died" / "train.log").write_text(log)
    (sweep / "dapo0" / "train.log").write_text(log)  # which went on, and finished
    notes, _ = study(sweep)
    assert noted(notes, "died: unfinished: at step 3 of 10", f"ends with: {says}.") and not noted(notes, "dapo0")


@pytest.mark.parametrize(
    ("damage", "says", "step"),
    [
        (lambda data: data[:-30], "metrics.csv is damaged: 1 line(s) left out", 9),
        (lambda data: data.rstrip(), "metrics.csv is damaged: 1 line(s) left out", 9),  # is the last number whole?
        (lambda data: data + b"\0" * 100, "NUL bytes", 10),
        (lambda data: data[: data.index(b"\n") + 1], "metrics.csv has no rows", 0),
        (lambda data: data[:20], "metrics.csv is damaged", 0),
        (lambda data: b"", "metrics.csv is empty", 0),
        (lambda data: b"\0" * 4096, "NUL bytes", 0),
        (lambda data: data.replace(b",4.", b",?.", 1), "metrics.csv is damaged: 1 line(s) left out", 10),
    ],
)
def test_a_damaged_metrics_file(damage, says, step, sweep):
    run = write_run(sweep / "bad", "dapo", 2, num_steps=10, entropy=lambda step: step + 0.5)
    (run / "summary.json").unlink()
    (run / "metrics.csv").write_bytes(damage((run / "metrics.csv").read_bytes()))
    notes, _ = study(sweep)
    assert noted(notes, "bad: ", says)
    assert step == 10 or noted(notes, f"bad: unfinished: at step {step} of 10")


def test_a_finished_run_whose_metrics_are_lost_keeps_the_results_of_its_summary(sweep):
    (sweep / "dapo0" / "metrics.csv").unlink()
    after = [json.loads((sweep / f"dapo{seed}/summary.json").read_text())["after"]["avg@8"] for seed in (0, 1)]
    notes, rows = study(sweep)
    assert noted(notes, "dapo0: no metrics.csv") and float(rows["dapo"]["avg"]) == pytest.approx(sum(after) / 2)


def test_values_that_are_not_finite_are_left_out(sweep):
    write_run(sweep / "bad", "dapo", 2, num_steps=10, entropy=lambda step: float("nan") if step == 9 else 2.0)
    notes, _ = study(sweep)
    assert noted(notes, "bad: entropy is not finite at 1 step(s)")


@pytest.mark.parametrize("cut", [False, True])
def test_tensorboard_is_read_where_there_is_no_metrics_file(cut, sweep):
    from torch.utils.tensorboard import SummaryWriter

    run = sweep / "dapo0"
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    writer = SummaryWriter(str(run / "tensorboard"))
    for row in rows:
        for name, value in row.items():
            if name != "step" and value:
                writer.add_scalar(name, float(value), int(row["step"]))
    writer.close()
    (events,) = (run / "tensorboard").iterdir()
    if cut:
        events.write_bytes(events.read_bytes()[:-3000])
    (run / "metrics.csv").unlink()
    (run / "summary.json").unlink()
    notes, table = study(sweep)
    assert noted(notes, "dapo0: metrics were read from tensorboard/ instead")
    assert noted(notes, "dapo0: unfinished: at step") == cut and table["dapo"]["seeds"] == ("1" if cut else "2")


@pytest.mark.parametrize("name", ["summary.json", "config.yaml"])
@pytest.mark.parametrize("keep", [0, 0.3, 0.9])
def test_a_cut_file_does_not_take_its_run_out_of_its_variant(name, keep, sweep):
    path = sweep / "dapo0" / name
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    notes, rows = study(sweep)
    assert noted(notes, f"dapo0: {name}") and rows["dapo"]["seeds"] == "2" and set(rows) == {"dapo", "grpo"}


def test_settings_cut_between_two_lines_are_not_taken_for_whole(sweep):
    config = sweep / "dapo0" / "config.yaml"
    config.write_text(config.read_text().partition("max_new_tokens:")[0])  # still YAML, with seed and num_steps
    notes, rows = study(sweep)
    assert noted(notes, "dapo0: config.yaml is cut short") and rows["dapo"]["seeds"] == "2"


def test_a_run_whose_settings_are_lost_is_left_out(sweep):
    for name in ("summary.json", "config.yaml"):
        (sweep / "dapo0" / name).write_text("{")
    notes, rows = study(sweep)
    assert noted(notes, "dapo0: left out") and rows["dapo"]["seeds"] == "1"


def test_runs_without_a_commit_are_named(sweep):
    write_run(sweep / "dapo2", "dapo", 2, num_steps=10, commit=None)
    notes, rows = study(sweep)
    assert noted(notes, "The commit is not recorded in dapo2") and rows["dapo"]["seeds"] == "3"


def test_a_job_that_failed_before_it_wrote_anything_is_named(sweep):
    (sweep / "failed").mkdir()
    (sweep / "failed" / "train.log").write_text("[08:41][__main__][ERROR] - it failed: clip.upper=0.28: ...\n")
    (sweep / "silent").mkdir()
    (sweep / "silent" / "train.log").touch()
    notes, _ = study(sweep)
    assert noted(notes, "failed: failed before it began", "clip.upper=0.28")
    assert noted(notes, "silent: failed before it began: its log names no error.")


def test_if_all_runs_failed_at_once_the_error_says_why(tmp_path):
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "train.log").write_text("[08:41][__main__][ERROR] - it failed: clip.upper=0.28: ...\n")
    with pytest.raises(NoRunsError, match=r"(?s)failed before it began.*clip\.upper=0\.28"):
        find_runs(tmp_path)


def test_a_run_without_its_configuration_is_named(sweep):
    (sweep / "dapo1" / "config.yaml").unlink()
    notes, rows = study(sweep)
    assert noted(notes, "dapo1: no config.yaml") and noted(notes, "dapo1: its variant is guessed from its options")
    assert rows["dapo"]["seeds"] == "2"


def test_steps_whose_metrics_are_lost_are_named_and_the_summary_replaces_them(sweep):
    whole = study(sweep)[1]["dapo"]
    path = sweep / "dapo1" / "metrics.csv"
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *(line for line in lines if int(line.split(",")[0]) <= 7), lines[1]]))
    notes, rows = study(sweep)
    assert noted(notes, "dapo1: no metrics of 3 of 10 DAPO steps") and noted(
        notes, "dapo1: metrics.csv repeats steps in 1 line(s)"
    )
    assert rows["dapo"]["minutes"] == whole["minutes"] and rows["dapo"]["gradient_steps"] == whole["gradient_steps"]
    assert rows["dapo"]["entropy_seeds"] == "1" and rows["dapo"]["avg_seeds"] == "2"


def test_a_name_that_is_no_metric_is_no_error(sweep):
    path = sweep / "dapo1" / "metrics.csv"
    path.write_text(path.read_text().replace("validation/avg@8,", "validation/avg@?,", 1))
    assert study(sweep)[1]["dapo"]["seeds"] == "2"


def test_names_that_a_spreadsheet_would_take_for_formulas_are_quoted(sweep):
    for run, name in (("dapo0", "=1+2"), ("grpo0", "@SUM(A1)")):
        config = sweep / run / "config.yaml"
        config.write_text(config.read_text().replace(f"experiment: {run[:-1]}\n", f"experiment: '{name}'\n"))
    _, rows = study(sweep)
    assert rows["'=1+2"]["seeds"] == "2" and rows["grpo"]["same_settings_as"] == "'@SUM(A1) ladder_0_grpo"
    assert "| =1+2" in (sweep / "study.md").read_text()
    assert float(rows["grpo"]["avg_minus_dapo"]) < 0  # a number, not a text


def test_variants_of_another_task_are_not_compared(tmp_path):
    """As when `recipe` has changed between two versions: the same overrides, other sums."""
    for experiment in ladder.LADDER[:3]:
        write_run(tmp_path / f"{experiment}_0", experiment, 0, num_steps=10)
        write_run(tmp_path / f"{experiment}_1", experiment, 1, num_steps=10)
    for seed in (0, 1):
        config = tmp_path / f"{ladder.LADDER[1]}_{seed}" / "config.yaml"
        config.write_text(config.read_text().replace("_target_: Arithmetic", "_target_: Other"))
    notes, rows = study(tmp_path)
    assert rows[ladder.LADDER[1]]["avg_minus_previous_step"] == ""
    assert noted(notes, f"leave out {ladder.LADDER[1]}: the task is not that of")


def test_one_stray_run_does_not_hide_the_ladder(tmp_path):
    for experiment in ladder.LADDER:
        write_run(tmp_path / experiment, experiment, 0, ["max_new_tokens=20"], num_steps=10)
    write_run(tmp_path / "stray", "dapo", 0, num_steps=10)
    assert noted(study(tmp_path)[0], "figures show the variants with max_new_tokens=20")
    assert (tmp_path / "figures/accuracy.png").exists()


def test_of_duplicates_the_finished_one_counts_then_the_newest(sweep):
    write_run(sweep / "again" / "unfinished", "dapo", 0, num_steps=10, steps_done=2)
    notes, rows = study(sweep)
    assert noted(notes, "again/unfinished: left out; dapo0 has the same settings and seed 0, and is finished")
    newer = write_run(sweep / "again" / "newer", "ladder_5_dynamic_sampling", 1, num_steps=10, accuracy=lambda s: 1.0)
    os.utime(newer / "config.yaml", (2e9, 2e9))
    notes, changed = study(sweep)
    assert noted(notes, "dapo1: left out; again/newer has the same settings and seed 1, and is newer")
    assert changed["dapo"]["seeds"] == "2" and changed["dapo"]["avg"] > rows["dapo"]["avg"]


def test_seeds_that_are_missing_in_a_variant(sweep):
    write_run(sweep / "dapo2", "dapo", 2, num_steps=10)
    assert noted(study(sweep)[0], "grpo: no run of seed 2, which other variants have")


def test_commits_and_dirty_trees(sweep):
    run = write_run(sweep / "other", "dapo", 2, num_steps=10, commit="beef" * 10 + "+changes")
    notes, _ = study(sweep)
    assert noted(notes, "different commits", "c0ffeec0ff in dapo0, ", "beefbeefbe+changes in other")
    assert noted(notes, "uncommitted changes", "in other")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["commits"] = ["beef" * 10, "d00d" * 10]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert noted(study(sweep)[0], "different commits", "beefbeefbe, then d00dd00dd0 in other")


def test_different_metrics_and_numbers_of_completions(sweep):
    run = write_run(sweep / "few", "dapo", 2, ["evaluation.num_completions=32"], num_steps=10)
    text = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(text.replace("length/mean", "length/average", 1))
    notes, rows = study(sweep)
    assert noted(notes, "completions per held-out prompt", "32 in few") and noted(notes, "length/mean", "in few")
    assert rows["dapo evaluation.num_completions=32"]["k"] == "32"
    assert rows["dapo evaluation.num_completions=32"]["avg_minus_dapo"] == ""  # measured otherwise


def test_settings_that_only_some_versions_of_the_code_know(sweep):
    for seed in (0, 1):
        config = sweep / f"dapo{seed}" / "config.yaml"
        config.write_text(config.read_text() + ("correction: {_target_: NoCorrection}\n" if seed else ""))
    notes, rows = study(sweep)
    assert noted(notes, "`correction` is a setting in 1 of 4 runs only") and rows["dapo"]["seeds"] == "2"


def test_ladder_steps_that_are_missing(sweep):
    assert noted(study(sweep)[0], "Steps of the ladder that were not run", "ladder_4_token_level")


def test_no_damage_to_its_files_is_fatal(sweep, tmp_path, monkeypatch):
    """Files cut, zeroed, overwritten or gone, at random; figures are drawn by the other tests."""
    monkeypatch.setattr("dapo_lightning.study.__main__.draw_all", lambda *args, **kwargs: [])
    damages = (
        lambda data, cut: data[:cut],
        lambda data, cut: data[:cut] + b"\0" * 50,
        lambda data, cut: data[:cut] + b"\xff\xfe{]:" + data[cut + 4 :],
        lambda data, cut: b"[1, 2]",
        lambda data, cut: b"null",
    )
    choose = random.Random(0)
    for attempt in range(30):
        copy = tmp_path / f"copy{attempt}"
        shutil.copytree(sweep, copy)
        for path in sorted(copy.glob("*/*")):
            if choose.random() < 0.5:
                data = path.read_bytes()
                path.write_bytes(choose.choice(damages)(data, choose.randrange(len(data))))
        assert main([str(copy)]) == 0
