"""Finds the runs of a sweep and reads them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from dapo_lightning.study import files
from dapo_lightning.utils.changes import described, read_changes
from dapo_lightning.utils.overrides import ORIGIN, leaves

WHAT_A_RUN_IS = """A run folder is what `python train.py` writes: outputs/<experiment>/<time>/, or one of the folders
of `python train.py -m`. It contains
  config.yaml    the settings, and the overrides and the commit that the run was started with
  metrics.csv    a row per DAPO step (or tensorboard/)
  summary.json   the results, once the run is finished"""

EXPECTED = (
    "entropy", "length/mean", "length/truncated", "reward/mean", "probability", "groups/useful", "groups/kept",
    "groups/all_correct", "tokens/generated", "steps/gradient", "seconds/generate", "seconds/update",
)  # fmt: skip
OPTIONAL = ("groups/trained", "groups/carried", "seconds/grade", "seconds/wait")
VALIDATION = "validation/"
IN_CONFIG = {"choices": dict, "overrides": list, "seed": int, "num_steps": int, "run_folder": str}
IN_SUMMARY = {"choices": dict, "seed": int, "dapo_steps": int, "evaluations": dict}


class NoRunsError(ValueError):
    """A folder that contains no runs."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run, as far as it can be read."""

    name: str  # path of its folder relative to the sweep
    choices: Mapping[str, str]  # the option of each config group
    overrides: tuple[str, ...]  # of the command line
    settings: Mapping[str, Any]  # config.yaml without choices, overrides and commits; empty if it is lost
    seed: int | None
    commits: tuple[str, ...]  # versions of the code that the run was made with
    metrics: pd.DataFrame  # a row per DAPO step; NaN where nothing was measured
    summary: Mapping[str, Any]  # empty if it is lost or the run is unfinished
    steps_done: int
    num_steps: int | None  # DAPO steps of the whole run
    changed: float  # when its files were last written, in seconds since 1970
    last_words: str | None  # the error at the end of train.log
    anomalies: tuple[str, ...]  # phrases that describe faults of its files

    @cached_property
    def leaves(self) -> dict[str, Any]:
        """The settings by their full names, such as clip.upper."""
        return leaves(self.settings)

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """Held-out metrics by DAPO step, from metrics.csv and, where they are missing there, from summary.json."""
        measured = self.metrics.filter(regex=f"^{VALIDATION}").dropna(how="all")
        summarized = pd.DataFrame.from_dict(self.summary.get("evaluations", {}), orient="index", dtype=float)
        summarized.index = summarized.index.astype(int)
        found = measured.rename(columns=lambda name: name.removeprefix(VALIDATION)).combine_first(summarized)
        return found.replace([np.inf, -np.inf], np.nan).sort_index()

    @cached_property
    def finished(self) -> bool:
        """Whether the policy was evaluated after the last DAPO step."""
        return self.num_steps in self.evaluations.index

    @cached_property
    def k(self) -> int | None:
        """The number of completions per held-out prompt."""
        numbers = self.evaluations.columns.str.extract(r"^avg@(\d+)$")[0].dropna()
        return max(map(int, numbers), default=None)

    def describe_progress(self) -> str:
        """Returns a phrase about the progress of an unfinished run."""
        changed = datetime.datetime.fromtimestamp(self.changed).strftime("%Y-%m-%d %H:%M")
        reason = f"; train.log ends with: {self.last_words}" if self.last_words else ""
        return f"unfinished: at step {self.steps_done} of {self.num_steps or '?'}, last written {changed}{reason}"


def find_runs(sweep: Path) -> list[Path]:
    """Returns the run folders at or below a folder.

    Raises:
        NoRunsError: if there is none; the message describes a run folder.
    """
    if not sweep.is_dir():
        raise NoRunsError(f"{sweep} is not a folder.\n{WHAT_A_RUN_IS}")
    found = [Path(folder) for folder, _, _ in os.walk(sweep) if _is_run(Path(folder))]
    if not found:
        raise NoRunsError("\n".join([f"{sweep} contains no run.", *describe_failed_starts(sweep), WHAT_A_RUN_IS]))
    return sorted(found)


def _is_run(folder: Path) -> bool:
    measured = any((folder / name).exists() for name in ("metrics.csv", "summary.json", "tensorboard"))
    return measured or ((folder / "config.yaml").exists() and (folder / "train.log").exists())


def describe_failed_starts(sweep: Path) -> list[str]:
    """Returns a sentence for every job that has written only its log."""
    logs = [log for log in sorted(sweep.rglob("train.log")) if not _is_run(log.parent)]
    errors = {log.parent.relative_to(sweep): files.last_words(log) or "its log names no error" for log in logs}
    return [f"{name}: failed before it began: {error}." for name, error in errors.items()]


def read_run(folder: Path, sweep: Path) -> Run:
    """Reads a run folder. config.yaml takes precedence over summary.json."""
    anomalies: list[str] = []
    config = files.read_mapping(folder / "config.yaml", IN_CONFIG, anomalies)
    has_summary = (folder / "summary.json").exists() and config.get("mode") != "evaluate"
    summary = files.read_mapping(folder / "summary.json", IN_SUMMARY, anomalies) if has_summary else {}
    metrics = files.read_metrics(folder, anomalies)
    num_measured, steps_done = len(metrics.index.difference([0])), max([summary.get("dapo_steps", 0), *metrics.index])
    if 0 < num_measured < steps_done:
        anomalies.append(f"no metrics of {steps_done - num_measured} of {steps_done} DAPO steps")
    anomalies += [described(change) for change in read_changes(folder) if change["key"] != "num_steps"]
    origin = config or summary
    written = [folder / name for name in ("config.yaml", "metrics.csv", "tensorboard", "summary.json")]
    return Run(
        name=str(folder.relative_to(sweep)) if folder != sweep else sweep.resolve().name,
        choices={group: str(option) for group, option in origin.get("choices", {}).items() if option is not None},
        overrides=tuple(map(str, config.get("overrides", ()))),
        settings={key: value for key, value in config.items() if key not in ORIGIN},
        seed=origin.get("seed"),
        commits=tuple(map(str, config.get("commits", ()))),
        metrics=metrics.reindex(columns=metrics.columns.union((*EXPECTED, *OPTIONAL))),
        summary=summary,
        steps_done=steps_done,
        num_steps=config.get("num_steps", summary.get("dapo_steps")),
        changed=max(path.stat().st_mtime for path in written if path.exists()),
        last_words=files.last_words(folder / "train.log"),
        anomalies=tuple(anomalies),
    )
