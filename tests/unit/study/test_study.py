"""The study of a sweep: means, differences, variants, figures, and the files of real runs."""

from __future__ import annotations

import csv
import importlib
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import runs as real_runs
import sweeps
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from sweeps import write_ladder, write_run

import dapo_lightning.study
from dapo_lightning.report.sweep_data import sweep_data
from dapo_lightning.study import figures, ladder, measures, report
from dapo_lightning.study.__main__ import main
from dapo_lightning.study.curves import DAPO_STEPS, GRADIENT_STEPS, MINUTES, TOKENS, curve
from dapo_lightning.study.intervals import intervals
from dapo_lightning.study.runs import find_runs, read_run
from dapo_lightning.study.variants import Variant, group_by_settings


def variants_of(sweep) -> list[Variant]:
    return ladder.in_order(group_by_settings([read_run(folder, sweep) for folder in find_runs(sweep)])[0])


def chosen(variants) -> dict[str, dict[str, Variant]]:
    """The paper's figures that can be drawn, with their variants by experiment."""
    found = {figure.file: figure.choose(ladder.shown_in_figures(variants)) for figure in figures.FIGURES}
    return {file: variants for file, variants in found.items() if variants}


def by_name(sweep) -> dict[str, Variant]:
    return {variant.name: variant for variant in variants_of(sweep)}


def test_interval_worked_by_hand():
    """0.6, 0.7, 0.8: mean 0.7, s = sqrt((0.01 + 0 + 0.01) / 2) = 0.1, t(2) = 4.3027, and
    4.3027 * 0.1 / sqrt(3) = 0.24841. A single seed has no interval."""
    found = intervals(pd.DataFrame([[0.6, 0.7, 0.8], [np.nan, 0.4, np.nan], [np.nan] * 3]))
    assert list(found.loc[0]) == pytest.approx([0.7, 0.24841, 3], abs=1e-5)
    assert list(found.loc[1]) == pytest.approx([0.4, np.nan, 1], nan_ok=True)
    assert list(found.loc[2]) == pytest.approx([np.nan, np.nan, 0], nan_ok=True)


def paired(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    return list(intervals(pd.DataFrame([ours]) - pd.DataFrame([theirs])).loc[0])


def test_paired_difference_worked_by_hand():
    """Seeds 0 and 1 are in both: 0.10 and 0.05. Mean 0.075, s = 0.05 / sqrt(2), t(1) = 12.706, so the half-width is
    12.706 * 0.05 / sqrt(2) / sqrt(2) = 0.31765."""
    found = paired({0: 0.8, 1: 0.9, 2: 0.7}, {0: 0.7, 1: 0.85, 3: 0.1})
    assert found == pytest.approx([0.075, 0.31765, 2], abs=1e-5)
    assert paired({0: 0.8}, {1: 0.8}) == pytest.approx([np.nan, np.nan, 0], nan_ok=True)
    assert paired({0: 0.8}, {0: 0.7}) == pytest.approx([0.1, np.nan, 1], nan_ok=True)


def test_effects_that_seeds_share_drop_out_of_a_paired_interval():
    assert paired({0: 0.1, 1: 0.5, 2: 0.9}, {0: 0.0, 1: 0.4, 2: 0.8}) == pytest.approx([0.1, 0, 3], abs=1e-9)


def test_measures_worked_by_hand(tmp_path):
    """20 steps. The last tenth is 2 steps, so the last 3 count: entropies 18, 19, 20. Half the groups used up are
    useful, 16 of them are trained on: 1600 tokens a step / 16 = 100. A minute is 30 + 6 + 24 s."""
    write_run(
        tmp_path / "dapo", "dapo", num_steps=20, accuracy=lambda step: step / 40, pass_=lambda step: step / 20,
        entropy=float, length__truncated=lambda step: 0.1 * (step == 20), groups__useful=lambda step: 0.5,
        groups__kept=lambda step: 0.4, tokens__generated=lambda step: 1600.0, length__mean=lambda step: 2.0 * step,
        seconds__generate=lambda step: 30.0,
        seconds__grade=lambda step: 6.0, seconds__update=lambda step: 24.0,
    )  # fmt: skip
    (tmp_path / "dapo" / "summary.json").unlink()  # all of it is in metrics.csv
    found = measures.measures(read_run(tmp_path / "dapo", tmp_path))
    assert found == pytest.approx(
        {
            "avg": 0.5, "pass": 1.0, "avg_of_run": 0.25, "truncated_held_out": found["truncated_held_out"],
            "entropy": 19, "entropy_of_run": 10.5, "truncated_training": 0.1 / 3, "truncated_of_run": 0.1 / 20,
            "length_of_run": 21, "tokens_per_useful_group": 100, "useful_group_share": 0.5, "minutes": 20,
            "gradient_steps": 80,
        }
    )  # fmt: skip


def test_static_sampling_pays_for_groups_without_a_learning_signal(tmp_path):
    """A quarter of 16 groups is useful: 1600 / 4 = 400 tokens each."""
    write_run(tmp_path / "run", "ladder_0_grpo", groups__useful=lambda s: 0.25, tokens__generated=lambda s: 1600.0)
    assert measures.measures(read_run(tmp_path / "run", tmp_path))["tokens_per_useful_group"] == pytest.approx(400)


def test_steps_that_find_no_useful_group_cost_tokens_all_the_same(tmp_path):
    """Every other step trains on 16 groups, all useful, and the others on none: 2 x 1600 / 16 = 200 tokens each."""
    found = {name: lambda step: 0.5 * (step % 2) for name in ("groups__useful", "groups__kept")}
    write_run(tmp_path / "run", "dapo", num_steps=10, tokens__generated=lambda s: 1600.0, **found)
    assert measures.measures(read_run(tmp_path / "run", tmp_path))["tokens_per_useful_group"] == pytest.approx(200)


def test_carried_groups_are_useful_too(tmp_path):
    """16 groups a step. One step finds 24 useful of 48 and carries 8, the next wants 8 more and finds 12 of 24: it used
    up 24 for 16, of which half are carried. 3200 tokens for 32 groups."""
    steps = {"groups__useful": (0.5, 0.5), "groups__kept": (16 / 48, 16 / 24), "groups__carried": (0.0, 0.5)}
    curves = {name: lambda step, v=values: v[(step + 1) % 2] for name, values in steps.items()}
    write_run(tmp_path / "run", "dapo", num_steps=10, tokens__generated=lambda s: 1600.0, **curves)
    assert measures.measures(read_run(tmp_path / "run", tmp_path))["tokens_per_useful_group"] == pytest.approx(100)


def test_variants_are_runs_that_differ_in_nothing_but_the_seed(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", "dapo", seed)
    write_run(tmp_path / "b", "dapo", 0, ["clip.upper=1.4"])
    write_run(tmp_path / "c", "dapo", 2, ["clip.upper=1.28", "trainer.devices=2"])  # what dapo has anyway
    write_run(tmp_path / "d", "grpo", 0)
    found = {variant.name: [run.name for run in variant.runs] for variant in variants_of(tmp_path)}
    assert found == {"grpo": ["d"], "dapo": ["a0", "a1", "c"], "dapo clip.upper=1.4": ["b"]}


def test_overrides_that_all_variants_share_are_not_in_their_names(tmp_path):
    write_run(tmp_path / "a", "dapo", 0, ["max_new_tokens=20"])
    write_run(tmp_path / "b", "grpo", 0, ["max_new_tokens=20", "clip.upper=1.1"])
    assert set(by_name(tmp_path)) == {"dapo", "grpo clip.upper=1.1"}


def test_an_override_that_some_variants_cannot_have_does_not_divide_the_ladder(tmp_path):
    for number, experiment in enumerate(ladder.LADDER):
        punishes = sweeps.TECHNIQUES[experiment][2] == "punish"
        write_run(tmp_path / str(number), experiment, 0, ["overlong.cache_tokens=4"] if punishes else [])
    assert set(by_name(tmp_path)) == set(ladder.LADDER)
    write_run(tmp_path / "x", "dapo", 0, ["overlong.cache_tokens=8"])
    assert set(by_name(tmp_path)) >= {"ladder_0_grpo", "dapo overlong.cache_tokens=8"}


def test_settings_count_and_not_the_overrides_that_led_to_them(tmp_path):
    """Two runs of one name with other settings: a default was changed between them."""
    write_run(tmp_path / "a", "dapo", 0)
    write_run(tmp_path / "b", "dapo", 1)
    changed = write_run(tmp_path / "c", "dapo", 2) / "config.yaml"
    changed.write_text(changed.read_text().replace("max_new_tokens: 56", "max_new_tokens: 64"))
    assert {name: len(variant.runs) for name, variant in by_name(tmp_path).items()} == {
        "dapo": 2,
        "dapo max_new_tokens=64": 1,
    }


def test_experiments_that_are_taken_for_the_same_have_the_same_settings():
    def settings(experiment: str) -> dict:
        composed = OmegaConf.to_container(real_runs.config(f"experiment={experiment}", "run_folder=x"), resolve=True)
        choices = HydraConfig.get().runtime.choices
        assert tuple(choices[group] for group in sweeps.GROUPS) == sweeps.TECHNIQUES[experiment]
        return composed

    known = {experiment: settings(experiment) for experiment in sweeps.TECHNIQUES}
    for experiment, others in ((one, ladder.roles(Variant((one,), (), ()))) for one in known):
        assert {other for other in known if known[other] == known[experiment]} == others
    assert set(known) >= {*ladder.LADDER, *ladder.LEAVE_ONE_OUT, ladder.DAPO}


def test_rows_are_in_the_order_of_the_paper(tmp_path):
    for number, experiment in enumerate(reversed(sweeps.TECHNIQUES)):
        write_run(tmp_path / str(number), experiment, 0)
    write_run(tmp_path / "x", "dapo", 0, ["overlong.cache_tokens=32"])
    write_run(tmp_path / "y", "dapo", 0, ["overlong.cache_tokens=4"])
    found = variants_of(tmp_path)
    assert [ladder.ladder_step(variant) for variant in found[:6]] == [0, 1, 2, 3, 4, 5]
    assert [variant.name for variant in found[6:]] == [
        "dapo_minus_clip_higher", "dapo_minus_token_level", "dapo_minus_soft_punishment", "reinforce_clip",
        "dapo overlong.cache_tokens=4", "dapo overlong.cache_tokens=32",
    ]  # fmt: skip
    assert "dapo (= ladder_5_dynamic_sampling)" in report.as_markdown(report.results_table(found), found, [], [], "x")


@pytest.mark.usefixtures("undrawn")
def test_differences_are_to_the_ladder_step_before_and_to_dapo(tmp_path):
    """Step n of the ladder ends with n / 10 on both seeds but for what the seed adds."""
    for number, experiment in enumerate(ladder.LADDER):
        for seed in (0, 1):
            write_run(tmp_path / f"{number}{seed}", experiment, seed, accuracy=lambda s, v=number / 10 + seed / 50: v)
    write_run(tmp_path / "x", "dapo_minus_clip_higher", 1, accuracy=lambda step: 0.32)
    assert main([str(tmp_path)]) == 0
    rows = {row["variant"]: row for row in csv.DictReader((tmp_path / "study.csv").open())}
    before = [rows[name]["avg_minus_previous_step"] for name in ladder.LADDER]
    assert before[0] == "" and [float(value) for value in before[1:]] == pytest.approx([0.1] * 5)
    assert float(rows["ladder_2_clip_higher"]["avg_minus_dapo"]) == pytest.approx(-0.3)
    assert float(rows["ladder_2_clip_higher"]["avg_minus_dapo_ci95"]) == pytest.approx(0, abs=1e-9)
    assert rows["ladder_5_dynamic_sampling"]["avg_minus_dapo"] == ""
    left_out = rows["dapo_minus_clip_higher"]
    assert float(left_out["avg_minus_dapo"]) == pytest.approx(-0.2)  # 0.32 - (0.5 + 1 / 50): seed 1 only
    assert left_out["avg_minus_dapo_seeds"] == "1" and left_out["avg_minus_dapo_ci95"] == ""


@pytest.mark.usefixtures("undrawn")
def test_each_held_out_set_has_a_table_and_curves(tmp_path):
    """Accuracies 0.4 and 0.6 of a set are 0.5 on average, 0.2 more than the 0.3 of the ladder step before."""
    for number, (experiment, seed, avg) in enumerate([(0, 0, 0.3), (0, 1, 0.3), (1, 0, 0.4), (1, 1, 0.6)]):
        override = ["+evaluation.sets.long-1.num_completions=4"]
        curves = {"validation__long-1__avg@4": lambda step, value=avg: value}
        write_run(tmp_path / str(number), ladder.LADDER[experiment], seed, override, **curves)
    assert main([str(tmp_path)]) == 0
    _, row = csv.DictReader((tmp_path / "study.csv").open())
    assert float(row["long-1/avg@4"]) == pytest.approx(0.5) and row["long-1/avg@4_seeds"] == "2"
    assert float(row["long-1/avg@4_minus_previous_step"]) == pytest.approx(0.2)
    assert row["variant"] == ladder.LADDER[1] and "long-1/reward/no_answer" not in row
    text = (tmp_path / "study.md").read_text()
    (table,) = re.findall(r"## Held-out set long-1\n\n(.*?)\n\n", text, re.DOTALL)
    assert re.search(r"variant .* avg@4 .* pass@4 .* previous ladder step .* full DAPO .* reward .* truncated", table)
    assert "0.500 ± 1.271" in table and "25.0% ±" in table
    assert (tmp_path / "figures/held_out_sets.png").exists()
    data = sweep_data(tmp_path, tmp_path)
    for figure in (data["figures"][0], data["figures"][-1]):
        (chart,) = [chart for chart in figure["charts"] if chart["title"] == "avg@4 on long-1"]
        assert [line["points"][-1][1] for line in chart["lines"]] == [0.3, 0.5]
    assert [run["accuracies"]["long-1 avg@4"] for run in data["runs"]] == [0.3, 0.3, 0.4, 0.6]


def test_dapo_on_another_task_is_nothing_to_compare_with(tmp_path):
    write_run(tmp_path / "a", "dapo", 0)
    write_run(tmp_path / "b", "dapo", 0, ["data.max_terms=3"])
    write_run(tmp_path / "c", "dapo", 0, ["clip.upper=1.4"])
    found = by_name(tmp_path)
    full = {name: ladder.full_dapo(list(found.values()), variant) for name, variant in found.items()}
    assert full == {"dapo": None, "dapo data.max_terms=3": None, "dapo clip.upper=1.4": found["dapo"]}


def test_pairs_differ_in_their_technique_and_in_no_other():
    """The filter of overlong completions counts as a technique of its own."""
    for technique, group in zip(figures.PAIRS, ("clip", "loss", "overlong", "sampling"), strict=True):
        for with_it, without in figures.PAIRS[technique]:
            one, other = sweeps.TECHNIQUES[with_it], sweeps.TECHNIQUES[without]
            differ = [name for name, a, b in zip(sweeps.GROUPS, one, other, strict=True) if a != b]
            assert differ == [group], technique
            assert one[sweeps.GROUPS.index(group)] in ("higher", "token_level", "punish", "filter", "dynamic")


def test_pairs_are_leave_one_out_or_else_steps_of_the_ladder(tmp_path):
    for experiment in ("ladder_1_overlong_filter", "ladder_2_clip_higher", "dapo"):
        write_run(tmp_path / experiment, experiment)
    assert list(chosen(variants_of(tmp_path))["entropy_clip_higher.png"]) == [*ladder.LADDER[2:0:-1]]
    write_run(tmp_path / "less", "dapo_minus_clip_higher")
    pair = chosen(variants_of(tmp_path))["entropy_clip_higher.png"]
    names = [(role, variant.name) for role, variant in pair.items()]
    assert names == [(name, name) for name in ("dapo", "dapo_minus_clip_higher")]
    assert "token_level.png" not in chosen(variants_of(tmp_path))


def test_curves_worked_by_hand(tmp_path):
    """Entropies 1, 2, 6 of three seeds: mean 3, s = sqrt((4 + 1 + 9) / 2) = sqrt(7), 4.303 * sqrt(7) / sqrt(3) = 6.573.
    Minutes by step 2: 2, 4 and 6 of them, 4 on average. The third seed ends at step 2: 5 minutes on average from there
    to step 4, if the others take 1 and 2 minutes a step, is 4 + 2 * 1.5 = 7."""
    for seed, entropy in enumerate((1.0, 2.0, 6.0)):
        write_run(
            tmp_path / str(seed), "dapo", seed, num_steps=4, steps_done=2 if seed == 2 else 4,
            entropy=lambda step, value=entropy: value, seconds__generate=lambda step, value=60.0 * (seed + 1): value,
            seconds__grade=lambda step: 0.0, seconds__update=lambda step: 0.0, tokens__generated=lambda step: 500.0,
        )  # fmt: skip
    variant = by_name(tmp_path)["dapo"]
    points = curve(variant, "entropy", MINUTES)
    assert list(points["count"]) == [3, 3, 2, 2]
    assert list(points["x"]) == pytest.approx([2, 4, 5.5, 7])
    assert list(points.loc[2, ["mean", "low", "high"]]) == pytest.approx([3, 3 - 6.573, 3 + 6.573], abs=1e-3)
    assert list(points.loc[4, ["mean", "low", "high"]]) == [1.5, 1, 2]  # two seeds: their range
    assert list(curve(variant, "entropy", DAPO_STEPS)["x"]) == [1, 2, 3, 4]
    assert list(curve(variant, "entropy", GRADIENT_STEPS)["x"]) == [4, 8, 12, 16]
    assert list(curve(variant, "entropy", TOKENS)["x"]) == [0.5, 1, 1.5, 2]
    held_out = curve(variant, "validation/avg@k", DAPO_STEPS)
    assert list(held_out["x"]) == [0, 4] and list(held_out["count"]) == [3, 2]


def test_the_figures_of_the_paper_show_the_right_variants(tmp_path):
    variants = variants_of(write_ladder(tmp_path, seeds=[0]))
    drawn = chosen(variants)
    roles = {file: list(variants) for file, variants in drawn.items()}
    names = {file: [variant.name for variant in variants.values()] for file, variants in drawn.items()}
    metrics = {figure.file: [metric for metric, _ in figure.metrics] for figure in figures.FIGURES}
    assert figures.describe_missing(variants) == [] and roles["accuracy.png"] == list(ladder.LADDER)
    assert roles["accuracy_leave_one_out.png"] == ["dapo", *ladder.LEAVE_ONE_OUT]
    assert roles["dynamic_sampling.png"] == ["dapo", "dapo_minus_dynamic_sampling"]
    assert names["dynamic_sampling.png"] == ["ladder_5_dynamic_sampling", "ladder_4_token_level"]
    assert roles["token_level.png"] == ["dapo", "dapo_minus_token_level"]
    assert metrics["token_level.png"] == ["entropy", "length/mean"]
    assert metrics["clipped_probability.png"] == ["clip/upper_probability"]
    assert metrics["all_correct.png"] == ["groups/all_correct"]
    assert metrics["full_run.png"] == ["length/mean", "reward/mean", "entropy", "probability"]
    assert [axis.label for axis in figures.FIGURES[0].axes][:2] == ["gradient steps", "DAPO steps"]


def test_figures_without_their_variants_are_named(tmp_path):
    write_run(tmp_path / "run", "dapo")
    missing = figures.describe_missing(variants_of(tmp_path))
    assert list(chosen(variants_of(tmp_path))) == ["full_run.png"] and len(missing) == 8
    assert any("token_level.png" in one and "dapo and dapo_minus_token_level" in one for one in missing)


def test_a_ladder_with_the_same_override_everywhere_is_still_a_ladder(tmp_path):
    for value in (20, 30):
        for experiment in ladder.LADDER[:2]:
            write_run(tmp_path / f"{experiment}{value}", experiment, 0, [f"max_new_tokens={value}"])
    write_run(tmp_path / "more", ladder.LADDER[0], 1, ["max_new_tokens=20"])
    found = variants_of(tmp_path)
    assert ladder.previous_step(found, found[3]) is found[2] and found[3].extras == ("max_new_tokens=30",)
    assert [variant.extras for variant in chosen(found)["accuracy.png"].values()] == [("max_new_tokens=20",)] * 2
    assert "The paper's figures show the variants with max_new_tokens=20." in figures.describe_missing(found)


def test_a_sweep_of_a_number_includes_the_default(tmp_path):
    write_run(tmp_path / "a", "ladder_5_dynamic_sampling", 0)
    for number, (upper, best) in enumerate([(1.4, 0.5), (1.4, 0.7), (1.2, 0.4)]):
        write_run(tmp_path / str(number), "dapo", number, [f"clip.upper={upper}"], accuracy=lambda step, v=best: v)
    write_run(tmp_path / "c", "dapo", 0, ["loss=blend"])  # not a number
    ((key, lines),) = figures.sweeps(variants_of(tmp_path)).items()
    assert key == "clip.upper" and list(lines["dapo"]) == [1.2, 1.28, 1.4]
    avg = {value: intervals(variant.results).loc["avg"] for value, variant in lines["dapo"].items()}
    assert avg[1.4]["mean"] == pytest.approx(0.6) and avg[1.4]["count"] == 2 and np.isnan(avg[1.2]["half_width"])


def test_the_command_writes_and_prints_everything(tmp_path, capsys):
    write_ladder(tmp_path / "sweep", seeds=[0, 1], num_steps=10)
    write_run(tmp_path / "sweep" / "up", "dapo", 0, ["clip.upper=1.4"], num_steps=10)
    assert main([str(tmp_path / "sweep"), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    expected = {figure.file for figure in figures.FIGURES} | {"sweep_clip.upper.png"}
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == expected
    assert all((tmp_path / "out" / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in expected)
    text = (tmp_path / "out" / "study.md").read_text()
    assert text in printed and "k = 8 completions" in text and "avg@8" in text
    assert all(f"figures/{name}" in printed for name in expected)
    assert "nan" not in text and " ± –" in text  # one seed of clip.upper=1.4
    assert not list((tmp_path / "sweep").glob("study*"))


def test_help_explains_the_inputs_and_outputs():
    process = subprocess.run(
        [sys.executable, "-m", "dapo_lightning.study", "--help"], capture_output=True, text=True, cwd=real_runs.ROOT
    )
    assert process.returncode == 0
    assert all(
        word in process.stdout for word in ("--output", "sweep", "study.md", "config.yaml", "python train.py -m")
    )


@pytest.mark.usefixtures("undrawn")
def test_real_run_folders_are_read(tmp_path, capsys):
    for seed in (0, 1):
        real_runs.run(tmp_path / f"dapo{seed}", f"seed={seed}")
    real_runs.run(tmp_path / "grpo0", "experiment=grpo")
    assert main([str(tmp_path)]) == 0
    rows = {row["variant"]: row for row in csv.DictReader((tmp_path / "study.csv").open())}
    assert {name: (row["seeds"], row["k"]) for name, row in rows.items()} == {"grpo": ("1", "2"), "dapo": ("2", "2")}
    summaries = [json.loads((tmp_path / f"dapo{seed}" / "summary.json").read_text()) for seed in (0, 1)]
    assert float(rows["dapo"]["avg"]) == pytest.approx(sum(one["after"]["avg@2"] for one in summaries) / 2, abs=1e-6)
    share = sum(one["useful_group_share"] for one in summaries) / 2
    assert float(rows["dapo"]["useful_group_share"]) == pytest.approx(share)
    assert float(rows["dapo"]["gradient_steps"]) == sum(one["gradient_steps"] for one in summaries) / 2


@pytest.mark.parametrize("name", ["matplotlib", "pandas", "scipy"])
def test_a_missing_library_is_named_with_the_remedy(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'needs {name}: pip install "dapo-lightning\[study\]"'):
        importlib.reload(dapo_lightning.study)
