"""Run folders as `train.py` leaves them, written by hand: settings, learning curves with noise, a summary."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

# experiment -> clip, loss, overlong, sampling, as in conf/experiment (a test holds this against the real ones)
TECHNIQUES = {
    "ladder_0_grpo": ("symmetric", "sample_level", "none", "static"),
    "ladder_1_overlong_filter": ("symmetric", "sample_level", "filter", "static"),
    "ladder_2_clip_higher": ("higher", "sample_level", "filter", "static"),
    "ladder_3_soft_punishment": ("higher", "sample_level", "punish", "static"),
    "ladder_4_token_level": ("higher", "token_level", "punish", "static"),
    "ladder_5_dynamic_sampling": ("higher", "token_level", "punish", "dynamic"),
    "dapo": ("higher", "token_level", "punish", "dynamic"),
    "dapo_minus_clip_higher": ("symmetric", "token_level", "punish", "dynamic"),
    "dapo_minus_token_level": ("higher", "sample_level", "punish", "dynamic"),
    "dapo_minus_dynamic_sampling": ("higher", "token_level", "punish", "static"),
    "dapo_minus_soft_punishment": ("higher", "token_level", "none", "dynamic"),
    "grpo": ("symmetric", "sample_level", "none", "static"),
    "reinforce_clip": ("symmetric", "token_level", "none", "static"),
}
GROUPS = ("clip", "loss", "overlong", "sampling")
GAINS = {"higher": 0.05, "token_level": 0.03, "filter": 0.02, "punish": 0.03, "dynamic": 0.04}

Curve = Callable[[int], float]


def write_run(
    folder: Path,
    experiment: str = "dapo",
    seed: int = 0,
    overrides: Sequence[str] = (),
    num_steps: int = 40,
    steps_done: int | None = None,
    commit: str | None = "c0ffee" * 6 + "c0de",
    **curves: Curve,
) -> Path:
    """Writes a run that has done `steps_done` of its steps, with a summary if that is all of them.

    `curves` replaces the made-up numbers: `accuracy` and `pass_` (held-out) and any metric with "/" written "__".
    """
    done = num_steps if steps_done is None else steps_done
    folder.mkdir(parents=True)
    choices = dict(zip(GROUPS, TECHNIQUES[experiment], strict=True)) | {"experiment": experiment}
    config = _settings(folder, experiment, seed, num_steps)
    given = [f"experiment={experiment}", f"num_steps={num_steps}", f"seed={seed}", *overrides]
    for override in overrides:
        name, _, value = override.lstrip("+").partition("=")
        _set(config, name, yaml.safe_load(value))
    origin = {"choices": choices, "overrides": given, "commits": [commit] if commit else []}
    (folder / "config.yaml").write_text(yaml.safe_dump(origin | config, sort_keys=False))
    rows = _rows(config, choices, seed, done, curves)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    if done == num_steps:
        (folder / "summary.json").write_text(json.dumps(_summary(rows, choices, seed, num_steps)))
    return folder


def write_ladder(sweep: Path, seeds: Sequence[int] = (0, 1, 2), **options: object) -> Path:
    """Writes all steps of the ladder and leave-one-outs, once if two are the same."""
    for experiment in TECHNIQUES:
        if experiment not in ("dapo", "dapo_minus_dynamic_sampling", "grpo", "reinforce_clip"):
            for seed in seeds:
                write_run(sweep / f"{experiment}_{seed}", experiment, seed, **options)  # type: ignore[arg-type]
    return sweep


def _settings(folder: Path, experiment: str, seed: int, num_steps: int) -> dict:
    clip, loss, overlong, sampling = TECHNIQUES[experiment]
    return {
        "clip": {"_target_": "Clip", "lower": 0.8, "upper": 1.28 if clip == "higher" else 1.2},
        "loss": {"_target_": loss},
        "overlong": {"_target_": overlong} | ({"cache_tokens": 16} if overlong == "punish" else {}),
        "sampling": {"_target_": sampling},
        "advantage": {"_target_": "mean_centered" if experiment == "reinforce_clip" else "group_normalized"},
        "policy": {"_target_": "TinyPolicy", "seed": seed, "warm_start": {"num_steps": 700, "seed": seed}},
        "data": {"_target_": "Arithmetic", "seed": 0},
        "reward": {"_target_": "Exact"},
        "trainer": {"devices": 1, "precision": "32-true"},
        "logger": {"csv": {"path": f"{folder}/metrics.csv"}},
        "callbacks": {"checkpoint": {"folder": f"{folder}/checkpoints"}},
        "mode": "train",
        "num_steps": num_steps,
        "seed": seed,
        "num_prompts_per_step": 16,
        "num_completions_per_prompt": 16,
        "max_new_tokens": 56,
        "evaluation": {"every": 10, "num_prompts": 256, "num_completions": 8},
        "resume": None,
        "run_folder": str(folder),
    }


def _set(config: dict, name: str, value: object) -> None:
    *path, last = name.split(".")
    for part in path:
        config = config.setdefault(part, {})
    config[last] = value


def _rows(config: dict, choices: dict, seed: int, done: int, curves: dict[str, Curve]) -> list[dict]:
    """Accuracy that saturates, entropy that falls (faster under a narrow clip), groups that stop being useful."""
    noise = random.Random(f"{choices} {seed}")
    upper, dynamic = config["clip"]["upper"], choices["sampling"] == "dynamic"
    best = 0.75 + sum(GAINS.get(option, 0.0) for option in choices.values()) - (upper - 1.28) ** 2
    k = config["evaluation"]["num_completions"]
    offset = noise.gauss(0, 0.015)
    rows = []
    for step in range(done + 1):
        learnt = (best + offset) * (1 - math.exp(-step / 9)) + 0.2 * math.exp(-step / 9)
        row: dict[str, float] = {"step": step}
        if step % config["evaluation"]["every"] == 0 or step == config["num_steps"]:
            row[f"validation/avg@{k}"] = learnt + noise.gauss(0, 0.005)
            row[f"validation/pass@{k}"] = min(1.0, learnt + 0.1)
            row["validation/truncated"] = 0.02 * math.exp(-step / 9)
            row["validation/entropy"] = 0.28 * math.exp(-step / 12)
            for name, of_set in config["evaluation"].get("sets", {}).items():
                n = of_set["num_completions"]
                row |= {f"validation/{name}/avg@{n}": learnt / 2, f"validation/{name}/pass@{n}": learnt / 2 + 0.1}
                row |= {f"validation/{name}/reward/mean": learnt - 1, f"validation/{name}/truncated": 0.25}
        if step:
            useful = max(0.15, 0.9 - learnt * 0.7 + noise.gauss(0, 0.04))
            generated = 16 * 16 * (1 / useful if dynamic else 1) * 19
            row |= {
                "accuracy": learnt + noise.gauss(0, 0.03),
                "reward/mean": 2 * learnt - 1 + noise.gauss(0, 0.05),
                "length/mean": 24 - 4 * learnt + noise.gauss(0, 0.4) + (1 if choices["loss"] == "sample_level" else 0),
                "length/truncated": 0.15 * math.exp(-step / 9),
                "entropy": 0.28 * math.exp(-step / (12 if upper > 1.25 else 7)) + abs(noise.gauss(0, 0.006)),
                "probability": 0.87 + 0.12 * (1 - math.exp(-step / 10)),
                "groups/useful": useful,
                "groups/all_correct": (1 - useful) * 0.9,
                "groups/all_wrong": (1 - useful) * 0.1,
                "groups/kept": useful if dynamic else 1.0,
                "tokens/generated": generated,
                "seconds/generate": generated / 2500,
                "seconds/grade": 0.1,
                "seconds/update": 1.5,
                "steps/dapo": step,
                "steps/gradient": 4 * step,
            }
            if noise.random() < 0.6:
                row["clip/upper_probability"] = 0.12 + 0.3 * (upper - 1.2) + abs(noise.gauss(0, 0.05))
        given = {"accuracy": f"validation/avg@{k}", "pass_": f"validation/pass@{k}"}
        for name, curve in curves.items():
            metric = given.get(name, name.replace("__", "/"))
            if metric in row or (step and not metric.startswith("validation/")):
                row[metric] = curve(step)
        rows.append(row)
    return rows


def _summary(rows: list[dict], choices: dict, seed: int, num_steps: int) -> dict:
    evaluations = {
        str(row["step"]): {
            name.removeprefix("validation/"): row[name] for name in row if name.startswith("validation/")
        }
        for row in rows
        if any(name.startswith("validation/") for name in row)
    }
    return {
        "choices": choices, "seed": seed, "before": evaluations["0"], "after": evaluations[str(num_steps)],
        "evaluations": evaluations, "dapo_steps": num_steps, "gradient_steps": 4 * num_steps,
        "useful_group_share": 0.5, "seconds": {"generate": 60.0, "grade": 1.0, "update": 59.0},
    }  # fmt: skip
