"""Reads the files of a run even if a kill, a full disk or a partial copy has left them incomplete or damaged.

Every reader appends to `anomalies` a phrase for each fault that it finds.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from dapo_lightning.utils import plain_yaml
from dapo_lightning.utils.csv_lines import csv_lines


def read_mapping(path: Path, required: Mapping[str, type], anomalies: list[str]) -> dict[str, Any]:
    """Returns the content of a YAML or JSON file; empty if it is missing, damaged, or lacks a required key."""
    try:
        is_json = path.suffix == ".json"
        content = json.loads(path.read_text(encoding="utf-8")) if is_json else plain_yaml.read(path)
    except FileNotFoundError:
        anomalies.append(f"no {path.name}")
    except (ValueError, OSError, RecursionError) as error:
        anomalies.append(f"{path.name} cannot be read ({str(error).partition(chr(10))[0]})")
    else:
        # YAML that is cut between two lines is still valid, so the last keys are required, too
        if isinstance(content, dict) and all(isinstance(content.get(key), kind) for key, kind in required.items()):
            return content
        anomalies.append(f"{path.name} is cut short")
    return {}


def read_metrics(folder: Path, anomalies: list[str]) -> pd.DataFrame:
    """Returns metrics.csv, or the scalars of tensorboard/ if that has no rows, with a row per DAPO step.

    Values that are not finite are NaN in the result, because they would spoil every mean.
    """
    metrics = _read_csv(folder / "metrics.csv", anomalies)
    if metrics.empty and any(folder.glob("tensorboard/events.out.tfevents.*")):
        metrics = _read_events(folder / "tensorboard")
        anomalies.append("metrics were read from tensorboard/ instead")
    return metrics.sort_index().replace([math.inf, -math.inf], math.nan)


def _read_csv(path: Path, anomalies: list[str]) -> pd.DataFrame:
    if not path.is_file():
        anomalies.append(f"no {path.name}")
        return pd.DataFrame()
    text = path.read_text(encoding="utf-8", errors="replace")
    lines, is_incomplete = csv_lines(text.replace("\0", ""))
    header, *table = lines or [[]]
    rows, num_bad, num_repeated = dict[int, dict[str, float]](), int(is_incomplete), 0
    for cells in table:
        try:
            row = {name: float(cell) for name, cell in zip(header, cells, strict=True) if cell}
            step = int(row.pop("step"))
        except (ValueError, OverflowError, KeyError):
            num_bad += 1
            continue
        num_repeated += step in rows
        rows[step] = row
    if num_bad or "\0" in text:
        nul_bytes = ", NUL bytes" if "\0" in text else ""
        anomalies.append(f"{path.name} is damaged: {num_bad} line(s) left out{nul_bytes}")
    elif not rows:
        anomalies.append(f"{path.name} has no rows" if header else f"{path.name} is empty")
    if num_repeated:
        anomalies.append(f"{path.name} repeats steps in {num_repeated} line(s): the last line of a step counts")
    not_finite = Counter(name for row in rows.values() for name, value in row.items() if not math.isfinite(value))
    anomalies += [f"{name} is not finite at {count} step(s), which are ignored" for name, count in not_finite.items()]
    return pd.DataFrame.from_dict(rows, orient="index", dtype=float)


def _read_events(folder: Path) -> pd.DataFrame:
    # takes a while to import, and is hardly ever needed
    from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]

    events = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})  # 0: all of them
    events.Reload()  # reads up to the first damaged record
    scalars = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    return pd.DataFrame(scalars, dtype=float)


def last_words(log: Path) -> str | None:
    """Returns why a run died: the last line of the last traceback in its log, or the last error that it logged."""
    if not log.is_file():
        return None
    text = log.read_text(encoding="utf-8", errors="replace").replace("\0", "")
    _, is_there, traceback = text.rpartition("\nTraceback (most recent call last)")
    raised = [line for line in traceback.splitlines()[1:] if line.strip() and not line.startswith(" ")]
    logged = [line for line in text.splitlines() if line.startswith("error: ") or "[ERROR]" in line]
    return next(iter(raised if is_there and raised else logged[-1:]), None)
