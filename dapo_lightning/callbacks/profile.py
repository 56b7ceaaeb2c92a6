"""Profiles one DAPO step: a trace for a viewer, and a table of where its time goes."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.profiler import ProfilerActivity, profile

from dapo_lightning.utils.atomic import replacing
from dapo_lightning.utils.table import table

ACTIVITIES = ("generate", "grade", "update")  # names of the clock, which marks them in the trace
WARM = 2  # the step of a session that is profiled; the first one also fills caches
ROWS = 8  # operations of each activity in the table


class ProfileStep(L.Callback):
    """Profiles the second step of a session, or its only one, on the first rank.

    Writes `trace.json.gz`, for https://ui.perfetto.dev or chrome://tracing, and `table.txt`.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._steps_begun = 0
        self._profile: profile | None = None

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._steps_begun += 1
        is_only = self._steps_begun == 1 and batch_idx == trainer.num_training_batches - 1
        if trainer.is_global_zero and (self._steps_begun == WARM or is_only):
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self._profile = profile(activities=kinds)
            self._profile.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._profile is None:
            return
        self._profile.stop()
        self.folder.mkdir(exist_ok=True)
        with replacing(self.folder / "trace.json.gz") as partial:
            written = partial.with_suffix(".gz")  # torch compresses files with this name
            self._profile.export_chrome_trace(str(written))
            written.rename(partial)
        step = pl_module.history.dapo_steps
        text = f"Where DAPO step {step} spends its time (trace: {self.folder / 'trace.json.gz'})\n\n"
        text += time_table(self._profile.events() or ())
        (self.folder / "table.txt").write_text(text + "\n", encoding="utf-8")
        print(f"\n{text}\n")
        self._profile = None


def time_table(events: Iterable[Any]) -> str:
    """Returns a table with the operations that take most time in each activity.

    The times of an operation are its own, without those of operations within it. An operation belongs to the activity
    in which it begins, also on other threads, where backward passes run.
    """
    events = list(events)
    spans = sorted(
        (event.time_range.start, event.time_range.end, event.name) for event in events if event.name in ACTIVITIES
    )
    starts = [start for start, *_ in spans]
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(lambda: [0.0, 0.0, 0.0]) for name in ACTIVITIES}
    for event in events:
        at = bisect_right(starts, event.time_range.start) - 1
        if at >= 0 and event.time_range.start < spans[at][1] and event.name not in ACTIVITIES:
            sums = found[spans[at][2]][event.name]
            sums[0] += 1
            sums[1] += event.self_cpu_time_total / 1000
            sums[2] += event.self_device_time_total / 1000
    rows = []
    for activity in ACTIVITIES:
        wall = sum(end - start for start, end, name in spans if name == activity) / 1000
        rows.append((f"{activity}: {wall:.0f} ms", "", "", ""))
        longest = sorted(found[activity].items(), key=lambda item: -max(item[1][1:]))
        for name, (calls, cpu, device) in longest[:ROWS]:
            rows.append((f"- {name[:60]}", f"{calls:.0f}", f"{cpu:.1f}", f"{device:.1f}"))
    return table(("activity (wall time), operation", "calls", "CPU ms", "device ms"), rows, style="plain")
