"""What a run came to: summary.json for machines, a short table for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dapo_lightning.step.reporter import History
from dapo_lightning.utils.atomic import replacing
from dapo_lightning.utils.memory import peak_memory_mb


def summarize(
    history: History,
    seconds: dict[str, float],
    prompts: dict[str, int],
    choices: dict[str, str],
    seed: int,
    run_folder: Path,
) -> dict[str, Any]:
    """The content of summary.json.

    `before` and `after` are held-out evaluations; `seconds` are wall time by activity, `generate`, `grade`, `wait`
    (for other ranks) and `update` those of training; all are over the whole run, earlier sessions of a
    resumed run included.
    """
    steps = sorted(history.evaluations)
    return {
        "choices": choices,
        "seed": seed,
        "prompts": prompts,
        "before": history.evaluations[steps[0]],
        "after": history.evaluations[steps[-1]],
        "evaluations": {str(step): history.evaluations[step] for step in steps},
        "dapo_steps": history.dapo_steps,
        "gradient_steps": history.gradient_steps,
        "skipped_steps": history.skipped_steps,
        "useful_group_share": history.groups_useful / max(1, history.groups_used_up),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "tokens": {"generated": history.tokens_generated, "trained": history.tokens_trained},
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "run_folder": str(run_folder),
    }


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """Writes summary.json, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")


def as_text(summary: dict[str, Any]) -> str:
    """The table shown at the end of a run."""
    lines = ["", f"{'held-out prompts':<22}{'before':>16}{'after':>16}"]
    lines += table([summary["before"], summary["after"]])
    seconds = summary["seconds"]
    lines += ["", f"{'wall time':<22}" + "".join(f"{name} {value:.0f} s   " for name, value in seconds.items())]
    lines += [
        f"{'steps':<22}{summary['dapo_steps']} DAPO steps, {summary['gradient_steps']} gradient steps, "
        f"{summary['skipped_steps']} skipped",
        f"{'useful groups':<22}{summary['useful_group_share']:.0%} of those generated",
        f"{'tokens':<22}{summary['tokens']['generated']:,} generated, {summary['tokens']['trained']:,} trained on",
        f"{'peak memory':<22}{summary['peak_memory_mb']:.0f} MB",
        "",
        f"{'run folder':<22}{summary['run_folder']}",
        f"{'  curves':<22}curves.png, metrics.csv, tensorboard/",
        f"{'  completions':<22}completions.jsonl",
        f"{'  trained policy':<22}policy/  (AutoModelForCausalLM.from_pretrained)",
        "",
    ]
    return "\n".join(lines)


def table(columns: Sequence[dict[str, float]]) -> list[str]:
    """One line per metric; those with a 95 % confidence interval as mean ± half-width, a dash where there is none."""

    def cell(column: dict[str, float], name: str) -> str:
        if name not in column:
            return "-"
        interval = column.get(f"{name}_ci95")
        return f"{column[name]:.3f}" + ("" if interval is None else f" ± {interval:.3f}")

    fullest_first = sorted(columns, key=len, reverse=True)  # for the order of the lines
    names = dict.fromkeys(name for column in fullest_first for name in column if not name.endswith("_ci95"))
    return [f"{name:<22}" + "".join(f"{cell(column, name):>16}" for column in columns) for name in names]
