"""Finds the runs of a sweep and reads them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from dapo_lightning.study import salvage
from dapo_lightning.utils.overrides import ORIGIN

WHAT_A_RUN_IS = """A run folder is what `python train.py` leaves: outputs/<experiment>/<time>/, or one of the folders
of `python train.py -m`. In it are
  config.yaml    its settings, and the overrides and commit it was started with
  metrics.csv    a row per DAPO step (or tensorboard/)
  summary.json   what it came to, once it is finished"""


class NoRunsError(ValueError):
    """A folder without runs."""


@dataclass(frozen=True)
class Run:
    """One run, as far as it can be read.

    Args:
        name: its folder, below the sweep's.
        choices: option of each config group; empty if unknown.
        overrides: what it was started with on the command line; none if unknown.
        settings: config.yaml without choices and overrides; none if it cannot be read.
        commits: of the code that it was made with; none if unknown.
        rows: metrics by DAPO step.
        summary: none while it is unfinished, or if it cannot be read.
        started: seconds since 1970; changed: the same, when its metrics were last written.
        oddities: phrases, for the notes of the table.
    """

    name: str
    choices: Mapping[str, str]
    overrides: tuple[str, ...] | None
    settings: Mapping[str, Any] | None
    seed: int | None
    commits: tuple[str, ...]
    rows: tuple[salvage.Row, ...]
    summary: Mapping[str, Any] | None
    started: float
    changed: float
    last_words: str | None
    oddities: tuple[str, ...]

    @property
    def experiment(self) -> str:
        return self.choices.get("experiment") or "custom"

    @property
    def num_steps(self) -> int | None:
        """DAPO steps it is meant to do; none if unknown."""
        if self.settings is not None:
            return self.settings["num_steps"]
        return self.summary["dapo_steps"] if self.summary else None

    @property
    def steps_done(self) -> int:
        """DAPO steps of which something was measured."""
        return max([self.summary["dapo_steps"] if self.summary else 0, *(row["step"] for row in self.rows)])

    @cached_property
    def evaluations(self) -> dict[int, dict[str, float]]:
        """DAPO steps done -> held-out metrics, from metrics.csv, else from summary.json."""
        prefix = "validation/"
        measured = {
            row["step"]: {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
            for row in self.rows
        }
        of_summary = self.summary["evaluations"] if self.summary else {}
        told = {
            int(step): {name: value for name, value in metrics.items() if _is_finite(value)}
            for step, metrics in of_summary.items()
        }
        return dict(sorted((told | {step: metrics for step, metrics in measured.items() if metrics}).items()))

    @property
    def after(self) -> Mapping[str, float] | None:
        """The evaluation after the last step; none if that is still to come."""
        return None if self.num_steps is None else self.evaluations.get(self.num_steps)

    @property
    def finished(self) -> bool:
        return self.after is not None

    @property
    def k(self) -> int | None:
        """Completions per held-out prompt."""
        names = {name for metrics in self.evaluations.values() for name in metrics}
        found = [name.removeprefix("avg@") for name in names if name.startswith("avg@")]
        return max((int(number) for number in found if number.isdecimal()), default=None)

    def stands(self) -> str:
        """Where an unfinished run stands."""
        changed = datetime.datetime.fromtimestamp(self.changed).strftime("%Y-%m-%d %H:%M")
        told = f"; train.log ends with: {self.last_words}" if self.last_words else ""
        return f"unfinished: at step {self.steps_done} of {self.num_steps or '?'}, last written {changed}{told}"


def find_runs(sweep: Path) -> list[Path]:
    """The run folders at or below a folder.

    Raises:
        NoRunsError: if there is none, with what one looks like.
    """
    if not sweep.is_dir():
        raise NoRunsError(f"{sweep} is not a folder.\n{WHAT_A_RUN_IS}")
    found = [Path(folder) for folder, _, _ in os.walk(sweep) if _is_run(Path(folder))]
    if not found:
        raise NoRunsError("\n".join([f"{sweep} holds no run.", *died_at_start(sweep), WHAT_A_RUN_IS]))
    return sorted(found)


def _is_run(folder: Path) -> bool:
    measured = any((folder / name).exists() for name in ("metrics.csv", "summary.json", "tensorboard"))
    return measured or ((folder / "config.yaml").exists() and (folder / "train.log").exists())


def died_at_start(sweep: Path) -> list[str]:
    """A sentence on every job that has left nothing but its log."""
    logs = [log for log in sorted(sweep.rglob("train.log")) if not _is_run(log.parent)]
    told = [(log.parent.relative_to(sweep), salvage.last_words(log)) for log in logs]
    return [
        f"{name}: failed before it began: {words}" if words else f"{name}: nothing but a log, which names no error."
        for name, words in told
    ]


def read_run(folder: Path, sweep: Path) -> Run:
    """Everything that a run folder tells; of what is told twice, config.yaml's counts."""
    oddities: list[str] = []
    config = salvage.read_config(folder / "config.yaml", oddities) or {}
    summary = salvage.read_summary(folder / "summary.json", oddities) if config.get("mode") != "evaluate" else None
    told = [source for source in (config, summary or {}) if source]
    overrides = next((tuple(map(str, source["overrides"])) for source in told if _is_list(source, "overrides")), None)
    seeds = [int(source["seed"]) for source in told if isinstance(source.get("seed"), int)]
    choices: dict[str, Any] = next(
        (source["choices"] for source in told if isinstance(source.get("choices"), dict)), {}
    )
    if not seeds:
        oddities.append("its seed is unknown")
    rows = salvage.read_rows(folder, oddities)
    _tell_missing(rows, summary, oddities)
    return Run(
        name=str(folder.relative_to(sweep)) if folder != sweep else sweep.resolve().name,
        choices={group: str(option) for group, option in choices.items() if option is not None},
        overrides=overrides,
        settings={key: value for key, value in config.items() if key not in ORIGIN} or None,
        seed=seeds[0] if seeds else None,
        commits=tuple(map(str, config["commits"])) if _is_list(config, "commits") else (),
        rows=tuple(rows),
        summary=summary,
        started=_modified(folder, "config.yaml"),
        changed=_modified(folder, "metrics.csv", "tensorboard", "config.yaml"),
        last_words=salvage.last_words(folder / "train.log"),
        oddities=tuple(oddities),
    )


def _tell_missing(rows: list[salvage.Row], summary: Mapping[str, Any] | None, oddities: list[str]) -> None:
    """DAPO steps that were done, but of which nothing is left."""
    measured = {row["step"] for row in rows} - {0}
    done = max(measured | {summary["dapo_steps"] if summary else 0})
    if measured and len(measured) < done:
        oddities.append(f"no metrics of {done - len(measured)} of {done} DAPO steps")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _is_list(source: Mapping[str, Any], name: str) -> bool:
    return isinstance(source.get(name), list)


def _modified(folder: Path, *names: str) -> float:
    """When the first of these files that is there was last written."""
    return next((path.stat().st_mtime for name in names if (path := folder / name).exists()), 0.0)
