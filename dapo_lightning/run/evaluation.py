"""The results of `mode=evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dapo_lightning.run.summary import as_lines, held_out_table
from dapo_lightning.utils.memory import peak_memory_mb


def summarize_evaluation(
    config: Mapping[str, Any], metrics: Mapping[str, float], prompts: dict[str, int]
) -> dict[str, Any]:
    """Returns the content of summary.json: the metrics, and the resolved settings that they depend on."""
    settings = {name: config[name] for name in ("policy", "checkpoint", "data", "reward", "evaluation", "seed")}
    return settings | {
        "prompts": prompts,
        "metrics": metrics,
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "run_folder": config["run_folder"],
    }


def evaluation_as_text(summary: Mapping[str, Any]) -> str:
    """Returns the text shown at the end of an evaluation."""
    settings, prompts = summary["evaluation"], summary["prompts"]
    sampled = ", ".join(f"{name} {settings[name]}" for name in ("max_new_tokens", "temperature", "top_p"))
    return as_lines(
        f"{prompts['evaluated']} of {prompts['validation']} held-out prompts, {sampled}\n\n"
        + held_out_table("metric", {"value": summary["metrics"]}),
        {"run folder": summary["run_folder"], "every prompt": "evaluation.jsonl", "these numbers": "summary.json"},
    )
