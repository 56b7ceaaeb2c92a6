"""The results of a training run or an evaluation: summary.json for programs, a short text for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dapo_lightning.step.result import History
from dapo_lightning.utils.atomic import replacing
from dapo_lightning.utils.memory import peak_memory_mb
from dapo_lightning.utils.table import number, table


def summarize(
    history: History, seconds: Mapping[str, float], prompts: dict[str, int], config: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Returns the content of summary.json.

    `before` and `after` are held-out evaluations. `seconds` is wall time by activity; those of training are `generate`,
    `grade`, `wait` (for other ranks) and `update`. All numbers include the earlier sessions of a resumed run.
    """
    steps = sorted(history.evaluations)
    return {
        "choices": config["choices"],
        "seed": config["seed"],
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
        "run_folder": str(folder),
    }


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """Writes summary.json atomically."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")


def as_text(summary: dict[str, Any]) -> str:
    """Returns the text shown at the end of a run."""
    steps, tokens, folder = summary["gradient_steps"], summary["tokens"], Path(summary["run_folder"])
    last = max(map(int, summary["evaluations"]))
    columns = {
        "before": summary["before"],
        "after" if last == summary["dapo_steps"] else f"step {last}": summary["after"],
    }
    if best := summary.get("best"):
        columns[f"best (step {best['step']})"] = summary["evaluations"][str(best["step"])]
    exported = f"of step {summary['policy_step']}, the best; " if "policy_step" in summary else ""
    ended = {"ended early": summary["ended_early"]} if "ended_early" in summary else {}
    ended |= {"interrupted": f"by Ctrl-C; resume={folder} continues it"} if "interrupted" in summary else {}
    warned = {"warning" if i == 0 else "": text for i, text in enumerate(summary.get("warnings", ()))}
    curves = [name for name in ("curves.png", "metrics.csv", "tensorboard") if (folder / name).exists()]
    return as_lines(
        held_out_table("held-out prompts", columns),
        {
            "wall time": ", ".join(f"{name} {value:.0f} s" for name, value in summary["seconds"].items()),
            "steps": f"{summary['dapo_steps']} DAPO steps, {steps} gradient steps, {summary['skipped_steps']} skipped",
            "useful groups": f"{summary['useful_group_share']:.0%} of all groups generated",
            "tokens": f"{tokens['generated']:,} generated, {tokens['trained']:,} trained on",
            "peak memory": f"{summary['peak_memory_mb']:.0f} MB",
        }
        | ended
        | warned,
        {
            "run folder": str(folder),
            "look at": "report.html" if (folder / "report.html").exists() else f"dapo-lightning report {folder}",
            "curves": ", ".join(curves) or "none",
            "completions": "rollouts/" if (folder / "rollouts").exists() else "none",
            "trained policy": f"policy/  ({exported}AutoModelForCausalLM.from_pretrained)",
        },
    )


def summarize_evaluation(
    config: Mapping[str, Any], metrics: Mapping[str, float], prompts: dict[str, int]
) -> dict[str, Any]:
    """Returns the content of summary.json with mode=evaluate: the metrics, and the settings that they depend on."""
    settings = {
        name: config[name]
        for name in ("policy", "checkpoint", "data", "reward", "environment", "evaluation", "stop", "seed")
    }
    return settings | {
        "prompts": prompts,
        "metrics": metrics,
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "run_folder": config["run_folder"],
    }


def evaluation_as_text(summary: Mapping[str, Any]) -> str:
    """Returns the text shown at the end of an evaluation."""
    settings, prompts = summary["evaluation"], summary["prompts"]
    sampled = ", ".join(
        f"{name} {settings[name]}" for name in ("max_new_tokens", "temperature", "top_p", "top_k", "min_p")
    )
    title = f"{prompts['evaluated']} of {prompts['validation']} held-out prompts, {sampled}"
    for name, one in (settings.get("sets") or {}).items():
        of_set = {key: value for key, value in one.items() if key in settings and key != "num_prompts"}
        title += f"\n{name}: {prompts[f'{name}/evaluated']} of {prompts[f'{name}/validation']}"
        title += "".join(f", {key} {value}" for key, value in of_set.items())
    return as_lines(
        f"{title}\n\n{held_out_table('metric', {'value': summary['metrics']})}",
        {"run folder": summary["run_folder"], "every prompt": "evaluation.jsonl", "these numbers": "summary.json"},
    )


def as_lines(results: str, *blocks: Mapping[str, str]) -> str:
    """Returns a table of results, followed by blocks of named facts."""
    facts = ["\n".join(f"{name:<17}{fact}" for name, fact in block.items()) for block in blocks]
    return "\n" + "\n\n".join([results, *facts]) + "\n"


def cell(metrics: Mapping[str, float], name: str) -> str:
    """Returns a metric as mean ± half-width, without the latter if it has no interval; a dash if it is missing."""
    if name not in metrics:
        return "-"
    interval = metrics.get(f"{name}_ci95")
    return number(metrics[name]) + ("" if interval is None else f" ± {number(interval)}")


def held_out_table(title: str, evaluations: Mapping[str, Mapping[str, float]]) -> str:
    """Returns a table with a row for each metric and a column for each evaluation.

    Metrics with a 95 % confidence interval are shown as mean ± half-width. A dash stands for a metric that an
    evaluation does not have.
    """

    longest_first = sorted(evaluations.values(), key=len, reverse=True)  # for the order of the rows
    names = dict.fromkeys(name for metrics in longest_first for name in metrics if not name.endswith("_ci95"))
    rows = [(name, *(cell(metrics, name) for metrics in evaluations.values())) for name in names]
    return table((title, *evaluations), rows, style="plain")
