"""Reads the files of a run, whole or cut: what a kill, a full disk or a copy half-done has left is told, not fatal.

Every reader adds to `oddities` a phrase for each thing that is not as it should be.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

Row = dict[str, Any]
"""One DAPO step of metrics.csv: `step` as int, the metrics measured then as floats."""


def read_json(path: Path, oddities: list[str]) -> dict[str, Any] | None:
    """An object; nothing if there is no such file, or not a whole one."""
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        oddities.append(f"{path.name} cannot be read ({_first_line(error)})")
        return None
    if not isinstance(value, dict):
        oddities.append(f"{path.name} holds no object")
        return None
    return value


def read_summary(path: Path, oddities: list[str]) -> dict[str, Any] | None:
    """What a finished training run leaves."""
    value = read_json(path, oddities)
    if value is None:
        return None
    whole = isinstance(value.get("dapo_steps"), int) and isinstance(value.get("evaluations"), dict)
    if whole and all(step.isdigit() and isinstance(metrics, dict) for step, metrics in value["evaluations"].items()):
        return value
    oddities.append(f"{path.name} is not that of a training run")
    return None


def read_config(path: Path, oddities: list[str]) -> dict[str, Any] | None:
    """What `train.py` wrote. YAML that is cut between two lines is still YAML: what every run has must be there."""
    if not path.exists():
        oddities.append(f"no {path.name}")
        return None
    try:
        value = yaml.safe_load(path.read_bytes())
    except (ValueError, yaml.YAMLError, OSError) as error:
        oddities.append(f"{path.name} cannot be read ({_first_line(error)})")
        return None
    whole = isinstance(value, dict) and {"seed", "num_steps", "run_folder"} <= value.keys()
    if not whole or not isinstance(value["num_steps"], int):
        oddities.append(f"{path.name} is cut short")
        return None
    return value


def read_rows(folder: Path, oddities: list[str]) -> list[Row]:
    """metrics.csv, or what TensorBoard's files hold if that has no rows."""
    rows = _read_csv(folder / "metrics.csv", oddities)
    if not rows and list(folder.glob("tensorboard/events.out.tfevents.*")):
        rows = _read_events(folder / "tensorboard", oddities)
        if rows:
            oddities.append("metrics read from tensorboard/ instead")
    return _finite(rows, oddities)


def _read_csv(path: Path, oddities: list[str]) -> list[Row]:
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        oddities.append(f"no {path.name}" if isinstance(error, FileNotFoundError) else f"{path.name}: {error}")
        return []
    *lines, rest = text.split("\n")  # a number cut in the middle is a number: only whole lines count
    lines = [line.rstrip("\r") for line in lines]
    bad = int(bool(rest.strip("\0\r ")))
    header = _cells(lines[0]) if lines else []
    rows: dict[int, Row] = {}
    num_again = 0
    for line in lines[1:]:
        row = _row(header, line)
        if row is None:
            bad += 1
        else:
            num_again += row["step"] in rows
            rows[row["step"]] = row
    if num_again:
        oddities.append(f"{path.name} has {num_again} line(s) of steps that an earlier line has: the last counts")
    if bad or "\0" in text:
        oddities.append(f"{path.name} is damaged: {bad} line(s) left out" + (", NUL bytes" if "\0" in text else ""))
    elif not rows:
        oddities.append(f"{path.name} " + ("has no rows" if "step" in header else "is empty"))
    return [rows[step] for step in sorted(rows)]


def _cells(line: str) -> list[str]:
    return next(csv.reader([line.replace("\0", "?")]), [])  # a NUL cannot be part of a number


def _row(header: list[str], line: str) -> Row | None:
    """A row as `read_metrics` gives it; nothing for a line that is not as long as the header, or not of numbers."""
    try:
        named = {name: cell for name, cell in zip(header, _cells(line), strict=True) if cell}
        return {"step": int(named.pop("step"))} | {name: float(cell) for name, cell in named.items()}
    except (ValueError, KeyError, csv.Error):
        return None


def _read_events(folder: Path, oddities: list[str]) -> list[Row]:
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,  # takes a while to import, and is hardly ever needed
    )

    rows: dict[int, Row] = {}
    try:
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # 0: all of them
        events.Reload()  # reads up to the first damaged record
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                rows.setdefault(int(event.step), {"step": int(event.step)})[tag] = float(event.value)
    except Exception as error:  # whatever bytes may hold
        oddities.append(f"tensorboard/ cannot be read ({_first_line(error)})")
    return [rows[step] for step in sorted(rows)]


def _finite(rows: list[Row], oddities: list[str]) -> list[Row]:
    """Without NaN and infinities, which would spoil every mean they enter."""
    lost = Counter(name for row in rows for name, value in row.items() if not math.isfinite(value))
    for name, count in lost.items():
        oddities.append(f"{name} is not finite at {count} step(s), left out there")
    return [{name: value for name, value in row.items() if math.isfinite(value)} for row in rows]


def last_words(path: Path) -> str | None:
    """What a log says of a run's death: the last line of its last traceback, or the sentence `train.py` ended with."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").replace("\0", "").splitlines()
    except OSError:
        return None
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    after = [line for line in lines[starts[-1] + 1 :] if line.strip() and not line.startswith(" ")] if starts else []
    errors = [line for line in lines if line.startswith("error: ") or "[ERROR]" in line]
    return next(iter(after or errors[-1:]), None)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
