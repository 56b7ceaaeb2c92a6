"""Seconds per step, ours and TRL's in turn, on the same model, prompts and lengths: `python -m benchmarks.step`.

Each run is a process of its own; runs alternate, so that a slow spell of the machine hits both. The first step of a run
is left out. The ratio is one of completion tokens per second, which for completions of natural length takes out what
chance made them longer or shorter.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import CASES
from benchmarks.floor import Machine, measure
from dapo_lightning.utils.table import table

SIDES = ("trl", "ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="of a run; the first is not counted")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/step.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    results: dict[str, dict[str, list[Any]]] = {}
    for case in arguments.cases:
        results[case] = {side: [] for side in SIDES}
        for pair in range(arguments.pairs):
            for side in SIDES if pair % 2 else reversed(SIDES):
                run = measured(side, case, arguments)
                results[case][side].append(run)
                seconds = [round(step["step"], 2) for step in run["steps"]]
                print(f"{case}, pair {pair + 1} of {arguments.pairs}, {side}: {seconds} s/step", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1))
    print(f"\n{as_table(results, measure())}\n\nRaw numbers: {arguments.out}")


def measured(side: str, case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One run in a process of its own; its steps but the first, and its peak memory."""
    command = [sys.executable, "-m", f"benchmarks.{side}", case, "--steps", str(arguments.steps)]
    command += ["--threads", str(arguments.threads), "--precision", arguments.precision]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    run: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return run | {"steps": run["steps"][1:]}


def as_table(results: dict[str, dict[str, list[Any]]], machine: Machine) -> str:
    """Medians over all steps of all runs; of ours also the share of what the machine could do."""
    header = ["case", "", "s/step", "generate", "update", "tokens", "tokens/s", "ratio", "peak MB", "ratio"]
    header += ["generate: share of the floor", "update: share of the matmul peak"]
    rows: list[list[object]] = []
    for case, runs in results.items():
        found = {side: _medians(runs[side]) for side in SIDES}
        speed = found["ours"]["speed"] / found["trl"]["speed"]
        memory = found["ours"]["peak_mb"] / found["trl"]["peak_mb"]
        for side, m in found.items():
            row: list[object] = [case, side, f"{m['step']:.2f}", f"{m['generate']:.2f}", f"{m['update']:.2f}"]
            row += [f"{m['tokens']:.0f}", f"{m['speed']:.0f}", f"{speed:.2f}" if side == "ours" else ""]
            row += [f"{m['peak_mb']:.0f}", f"{memory:.2f}" if side == "ours" else ""]
            row += [f"{share:.0%}" for share in _shares(m, machine)] if side == "ours" else ["", ""]
            rows.append(row)
    return table(header, rows)


def _shares(m: dict[str, float], machine: Machine) -> tuple[float, float]:
    """Of the time that computing or reading, whichever is longer, takes at least; and of the matmul peak."""
    generate = max(m["flops"] / machine.flops, m["bytes"] / machine.bytes_per_second)
    return generate / m["generate"], 3 * m["flops"] / machine.flops / m["update"]


def _medians(runs: list[Any]) -> dict[str, float]:
    steps = [step for run in runs for step in run["steps"]]
    found = {name: statistics.median(step[name] for step in steps) for name in steps[0]}
    found["speed"] = statistics.median(step["tokens"] / step["step"] for step in steps)
    return found | {"peak_mb": statistics.median(run["peak_mb"] for run in runs)}


if __name__ == "__main__":
    main()
