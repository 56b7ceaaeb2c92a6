"""The files in rollouts/ -> the groups that a page shows, bounded in size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

MAX_CHARACTERS = 20_000  # of a text; the files hold all of it


def read_groups(folder: Path, megabytes: float) -> tuple[dict[str, Any], list[str]]:
    """Returns the prompts and the groups of a run's rollouts, and sentences about what is left out.

    If all of them would exceed `megabytes`, evenly spaced steps are chosen; steps with records of single tokens come
    first. Of a step that is too large on its own, the first groups are chosen.
    """
    files: dict[int, list[Path]] = {}
    notes: list[str] = []
    for path in sorted(folder.glob("step_*.parquet")):
        files.setdefault(int(path.stem.split("_")[1]), []).append(path)
    steps: dict[int, list[dict[str, Any]]] = {}
    for step, paths in files.items():
        try:
            steps[step] = [group for path in paths for group in _groups(path)]
        except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
            notes.append(f"rollouts of step {step} cannot be read: {str(error).partition(chr(10))[0]:.200}.")
    kept: dict[int, list[dict[str, Any]]] = {}
    room = megabytes * 2**20
    for step in _in_order_of_interest(steps):
        for group in sorted(steps[step], key=lambda group: not group["tokens"]):
            size = len(json.dumps(group))
            if size <= room:
                kept.setdefault(step, []).append(group)
                room -= size
    total = sum(len(groups) for groups in steps.values())
    left_out = total - sum(len(groups) for groups in kept.values())
    if left_out:
        notes.append(
            f"{left_out} of {total} groups are left out of this page, because it would exceed "
            f"{megabytes:g} MB. --megabytes raises the limit; rollouts/ holds all of them."
        )
    prompts: dict[str, int] = {}
    groups = [group for step in sorted(kept) for group in sorted(kept[step], key=lambda group: group["number"])]
    for group in groups:
        group["prompt"] = prompts.setdefault(json.dumps(group["prompt"]), len(prompts))
    return {"prompts": [json.loads(prompt) for prompt in prompts], "groups": groups}, notes


def _in_order_of_interest(steps: dict[int, list[dict[str, Any]]]) -> list[int]:
    """Steps with records of single tokens, then every 2^k-th step with falling k, so that any beginning of the list is
    spread over the run."""

    def rank(step: int) -> tuple[bool, int, int]:
        has_tokens = any(group["tokens"] for group in steps[step])
        return not has_tokens, -(step & -step), step

    return sorted(steps, key=rank)


def _groups(path: Path) -> Iterator[dict[str, Any]]:
    rows: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in pq.read_table(path).to_pylist():
        rows.setdefault((row["group"], row["fate"]), []).append(row)
    for of_group in rows.values():
        first = of_group[0]
        yield {
            "step": first["step"],
            "number": first["group"],
            "fate": first["fate"],
            "verdict": first["verdict"],
            "prompt": {
                "text": _shortened(first["prompt"]),
                "messages": [{"role": m["role"], "content": _shortened(m["content"])} for m in first["messages"] or []],
                "reference": _shortened(first["reference"]),
                "source": first["source"],
            },
            "tokens": any(row["token_texts"] for row in of_group),
            "completions": [_completion(row) for row in of_group],
        }


def _completion(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a completion without the values that it does not have: many are empty, and a page holds many."""
    found: dict[str, Any] = {
        "text": _shortened(row["text"]),
        "length": row["num_tokens"],
        "correct": int(row["correct"]),
        "truncated": int(row["truncated"]),
        "score": row["score"],
        "reward": _rounded(row["reward"]),
        "advantage": _rounded(row["advantage"]),
        "logp": _rounded(row["mean_logp"]),
        "entropy": _rounded(row["mean_entropy"]),
        "answer": _shortened(row["answer"]),
        "stage": row["stage"],
        "failure": row["failure"],
        "detail": _shortened(row["detail"]),
        "parts": [[part["name"], part["score"]] for part in row["parts"] or []],
        "tokens": _tokens(row) if row["token_texts"] else None,
    }
    return {name: value for name, value in found.items() if value not in (None, []) and (value or name != "truncated")}


def _tokens(row: dict[str, Any]) -> dict[str, Any]:
    names = {"old": "old_logps", "new": "new_logps", "ratio": "ratios", "entropy": "entropies",
             "advantage": "advantages", "weight": "weights"}  # fmt: skip
    return {
        "text": row["token_texts"],
        "held": row["held"] or [0] * len(row["token_texts"]),
        "masked": [int(masked) for masked in row["masked"]],
        **{name: [_rounded(value) for value in row[column]] for name, column in names.items()},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _shortened(text: str | None) -> str | None:
    """Cuts out the middle of a long text."""
    half = MAX_CHARACTERS // 2
    if text is None or len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:half]}\n[... {len(text) - MAX_CHARACTERS} characters ...]\n{text[-half:]}"
