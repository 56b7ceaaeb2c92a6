"""A run folder -> the data of its page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.report.rollouts import read_groups
from dapo_lightning.report.settings import settings
from dapo_lightning.utils.changes import described, read_changes
from dapo_lightning.utils.held_out import accuracies_of_sets

Panel = tuple[str, str, tuple[tuple[str, str], ...]]  # title, unit, (metric, label)
PANELS: tuple[Panel, ...] = (
    ("Held-out accuracy", "", (("validation/avg@", "avg"), ("validation/pass@", "pass"), ("validation/maj@", "maj"))),
    ("Accuracy in training", "", (("accuracy", "all groups used"),)),
    ("Reward", "", (("reward/mean", "training"), ("overlong/penalty", "overlong penalty"),
                    ("validation/reward/mean", "held out"))),
    ("No answer", "share", (("reward/no_answer", "training"), ("validation/reward/no_answer", "held out"))),
    ("Entropy", "nats per token", (("entropy", "training"), ("validation/entropy", "held out"))),
    ("Completion length", "tokens", (("length/mean", "mean"), ("length/max", "longest"))),
    ("Groups", "share", (("groups/useful", "useful"), ("groups/all_correct", "all right"),
                         ("groups/all_wrong", "all wrong"))),
    ("Held by the clip", "share of tokens", (("clip/upper_fraction", "above"), ("clip/lower_fraction", "below"))),
    ("Distance from the old policy", "KL", (("kl/old", "KL"),)),
    ("Truncated", "share", (("length/truncated", "training"), ("validation/truncated", "held out"))),
    ("Gradient norm", "", (("gradient/norm", "before clipping"),)),
    ("Time of a step", "seconds", (("seconds/generate", "generate"), ("seconds/grade", "grade"),
                                   ("seconds/wait", "wait"), ("seconds/update", "update"))),
)  # fmt: skip
_LOG = re.compile(r"^\[([^\]]+)\]\[([^\]]+)\]\[(WARNING|ERROR|CRITICAL)\] - (.*)$", re.MULTILINE)


def run_data(folder: Path, megabytes: float) -> dict[str, Any]:
    """Returns the data of a run's page; what the folder lacks is left out.

    Args:
        megabytes: room for the completions.
    """
    config, summary = _mapping(folder / "config.yaml"), _mapping(folder / "summary.json")
    rows = read_metrics(folder / "metrics.csv") if (folder / "metrics.csv").is_file() else []
    rollouts, notes = read_groups(folder / "rollouts", megabytes)
    notes += [f"{described(change)}." for change in read_changes(folder)]
    if not rollouts["groups"] and not notes:
        notes.append("This run wrote no rollouts (callbacks.rollouts=null, or an earlier version).")
    choices = config.get("choices") or {}
    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    name = " · ".join(str(choices[key]) for key in ("experiment", "recipe") if choices.get(key)) or "run"
    return {
        "kind": "run",
        "title": f"{name} · {folder.resolve().name}",
        "name": name,
        "folder": str(folder),
        "facts": _facts(config, summary, rows),
        "warnings": [*_warnings(folder / "train.log"), *notes],
        "steps": [row["step"] for row in rows],
        "metrics": {name: [row.get(name) for row in rows] for name in names},
        "panels": [{"title": title, "unit": unit, "lines": lines} for title, unit, lines in _panels(names)],
        "clip": _clip(config),
        "settings": settings(config),
        "sets": [of_set for of_set, _ in accuracies_of_sets(summary.get("after", {}))],
        "held_out": {step: summary["evaluations"][step] for step in summary.get("evaluations", {})},
        **rollouts,
    }


def _panels(names: Sequence[str]) -> list[Panel]:
    """Returns the panels, with two for the sets of `evaluation.sets`, if there are any."""
    found = accuracies_of_sets(name.removeprefix("validation/") for name in names)
    accuracies = tuple((f"validation/{of_set}/{avg}", f"{of_set} {avg}") for of_set, avg in found)
    rewards = tuple((f"validation/{of_set}/reward/mean", of_set) for of_set, _ in found)
    of_sets: list[Panel] = [("Other held-out sets", "", accuracies), ("Reward on other held-out sets", "", rewards)]
    return [PANELS[0], *(of_sets if found else []), *PANELS[1:]]


def _facts(config: dict[str, Any], summary: dict[str, Any], rows: list[dict[str, Any]]) -> list[list[str]]:
    done = max((row["step"] for row in rows), default=summary.get("dapo_steps", 0))
    facts = [["DAPO steps", f"{done} of {config.get('num_steps', '?')}"]]
    facts.append(["seed", str(config.get("seed", "?"))])
    if seconds := summary.get("seconds"):
        facts.append(["time", _duration(sum(seconds.values()))])
    if tokens := summary.get("tokens"):
        facts.append(["tokens generated", f"{tokens['generated']:,}"])
        facts.append(["trained on", f"{tokens['trained']:,}"])
    if commits := config.get("commits"):
        facts.append(["code", str(commits[-1])[:10] + ("+changes" if "+changes" in str(commits[-1]) else "")])
    return facts


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _clip(config: dict[str, Any]) -> dict[str, float]:
    clip = config.get("clip")
    return {name: clip[name] for name in ("lower", "upper") if name in clip} if isinstance(clip, dict) else {}


def _warnings(log: Path) -> list[str]:
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return list(dict.fromkeys(f"{match[4]}" for match in _LOG.finditer(text)))


def _mapping(path: Path) -> dict[str, Any]:
    """Returns the content of a YAML or JSON file; nothing if it is missing or damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
