"""Wall seconds until held-out avg@8 on `data=arithmetic` reaches a target: this kit's DAPO and TRL's GRPOTrainer.

    python -m benchmarks.time_to_accuracy --seeds 0,1,2 --target 0.8

Both start from the same warm-started policy (the first run of a seed makes it, the other finds it in
outputs/warm_start) and follow the same Hydra config; `benchmarks/trl_arithmetic.py` says what differs all the same.
The clock runs over all that happens between two evaluations: generation, grading, updates and the trainer's own
overhead. It does not run during imports, set-up, warm start and evaluation. The sides run one after the other, each
in a process of its own; which one is first alternates from seed to seed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

from dapo_lightning.utils.table import table

OURS, TRL = "dapo-lightning", "TRL"
MODULES = {OURS: "benchmarks.ours_arithmetic", TRL: "benchmarks.trl_arithmetic"}
ROOT = Path(__file__).parent.parent

Point = Mapping[str, float]


def crossing(points: Sequence[Point], target: float) -> Point | None:
    """The first point at which the accuracy was seen to be at least `target`; nothing is interpolated."""
    return next((point for point in points if point["accuracy"] >= target), None)


def measure(implementation: str, seed: int, options: Sequence[str]) -> list[Point]:
    """The points of one run, shown as they come."""
    command = [sys.executable, "-W", "ignore", "-m", MODULES[implementation], f"--seed={seed}", *options]
    offline = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
    points: list[Point] = []
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | offline, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            mark, _, rest = line.partition(" ")
            if mark != "point":  # what Lightning, TRL and the like have to say
                continue
            point = json.loads(rest)
            points.append(point)
            print(
                f"seed {seed}  {implementation:<{len(OURS)}}  rollout {point['rollouts']:3}  "
                f"{point['seconds']:7.1f} s  avg@8 {point['accuracy']:.3f}",
                flush=True,
            )
    if process.returncode != 0:
        sys.exit(f"error: {' '.join(command)} failed with status {process.returncode}")
    return points


def check_same_start(runs: Sequence[Mapping[str, Any]]) -> None:
    """Before training, both sides must have the same policy, prompts and evaluator: then the first points agree."""
    for seed in {run["seed"] for run in runs}:
        starts = {run["points"][0]["accuracy"] for run in runs if run["seed"] == seed}
        if len(starts) > 1:
            sys.exit(f"error: seed {seed} does not start from the same policy: avg@8 {sorted(starts)}")


def report(runs: Sequence[Mapping[str, Any]], target: float) -> str:
    """One row per seed and side, their medians, and how much longer TRL took. A run that stays below counts as
    infinitely long."""
    rows: list[list[object]] = []
    seconds: dict[str, list[float]] = {name: [] for name in MODULES}
    for run in sorted(runs, key=lambda run: (run["seed"], run["implementation"] != OURS)):
        point = crossing(run["points"], target)
        seconds[run["implementation"]].append(point["seconds"] if point else inf)
        if point:
            shown = [point["rollouts"], f"{point['seconds']:.1f}", point["completions"], f"{point['accuracy']:.3f}"]
        else:
            shown = ["-", "not reached", "-", f"{max(point['accuracy'] for point in run['points']):.3f} at best"]
        rows.append([run["seed"], run["implementation"], *shown])
    medians = {name: median(values) for name, values in seconds.items()}
    rows += [["median", name, "", f"{value:.1f}" if value < inf else "not reached", "", ""]
             for name, value in medians.items()]  # fmt: skip
    header = ["seed", "implementation", "rollouts", f"wall seconds to avg@8 >= {target}", "completions", "avg@8 there"]
    text = table(header, rows)
    if max(medians.values()) < inf:
        text += f"\n\nTRL needed {medians[TRL] / medians[OURS]:.2f} times the wall seconds (of the medians)."
    return text


def draw(runs: Sequence[Mapping[str, Any]], target: float, path: Path) -> None:
    """avg@8 over wall seconds, one line per run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axis.axhline(target, color="grey", linestyle="--", linewidth=1)
    named = set()
    for run in runs:
        name = run["implementation"]
        seconds, accuracies = ([point[key] for point in run["points"]] for key in ("seconds", "accuracy"))
        axis.plot(seconds, accuracies, color="C0" if name == OURS else "C1", marker="o", markersize=3, linewidth=1.2,
                  label=None if name in named else name)  # fmt: skip
        named.add(name)
    axis.set(xlabel="wall seconds of training", ylabel="held-out avg@8", title="data=arithmetic, one line per seed")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--target", type=float, default=0.8)
    parser.add_argument("--rollouts", type=int, default=40, help="of each run, whether the target is reached or not")
    parser.add_argument("--every", type=int, default=2, help="rollouts between evaluations")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/time_to_accuracy.json"))
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for both sides, such as sampling=static")
    arguments = parser.parse_args()
    options = [f"--{name}={getattr(arguments, name)}" for name in ("rollouts", "every", "threads")]
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    versions = {name: version(name) for name in ("torch", "transformers", "lightning", "trl")}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)

    runs: list[dict[str, Any]] = []
    for number, seed in enumerate(map(int, arguments.seeds.split(","))):
        for name in (OURS, TRL) if number % 2 == 0 else (TRL, OURS):
            points = measure(name, seed, [*options, *arguments.overrides])
            runs.append({"seed": seed, "implementation": name, "points": points})
            arguments.out.write_text(json.dumps({"settings": settings, "versions": versions, "runs": runs}, indent=1))
        check_same_start(runs)
    draw(runs, arguments.target, arguments.out.with_suffix(".png"))
    print(f"\n{report(runs, arguments.target)}\n\n{arguments.out}, {arguments.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
