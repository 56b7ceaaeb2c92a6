"""What an evaluation came to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dapo_lightning.run.summary import table
from dapo_lightning.utils.memory import peak_memory_mb


def summarize_evaluation(
    config: Mapping[str, Any], metrics: dict[str, float], prompts: dict[str, int]
) -> dict[str, Any]:
    """The content of summary.json: the resolved settings that decide the numbers, and the numbers."""
    settings = {name: config[name] for name in ("policy", "checkpoint", "data", "reward", "evaluation", "seed")}
    return settings | {
        "prompts": prompts,
        "metrics": metrics,
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "run_folder": config["run_folder"],
    }


def evaluation_as_text(summary: Mapping[str, Any]) -> str:
    """The table shown at the end."""
    settings = summary["evaluation"]
    sampled = ", ".join(f"{name} {settings[name]}" for name in ("max_new_tokens", "temperature", "top_p"))
    prompts = f"{summary['prompts']['evaluated']} of {summary['prompts']['validation']} held-out prompts"
    lines = ["", f"{prompts}, {sampled}", *table([summary["metrics"]])]
    lines += [
        "",
        f"{'run folder':<22}{summary['run_folder']}",
        f"{'  every prompt':<22}evaluation.jsonl",
        f"{'  these numbers':<22}summary.json",
        "",
    ]
    return "\n".join(lines)
