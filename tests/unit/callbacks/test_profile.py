"""The trace and the table of a step, with profile=true."""

import gzip
import json
from types import SimpleNamespace

from runs import run

from dapo_lightning.callbacks.profile import ACTIVITIES, time_table


def test_a_step_is_profiled(tmp_path, capsys):
    folder = run(tmp_path / "run", "num_steps=1", "profile=true")
    with gzip.open(folder / "profile/trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert set(ACTIVITIES) <= {event["name"] for event in events if event.get("cat") == "user_annotation"}
    text = (folder / "profile/table.txt").read_text()
    assert text.startswith("Where DAPO step 1 spends its time") and text in capsys.readouterr().out + "\n"
    assert "aten::mm" in text.partition("update:")[2] or "aten::addmm" in text.partition("update:")[2]


def test_an_operation_belongs_to_the_activity_in_which_it_begins():
    def event(name, start, end, own=0.0):
        span = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(name=name, time_range=span, self_cpu_time_total=own, self_device_time_total=0.0)

    events = [
        event("generate", 0, 10_000), event("update", 20_000, 25_000), event("generate", 30_000, 40_000),
        event("mm", 1_000, 2_000, 1_000), event("mm", 31_000, 33_000, 2_000), event("mm", 24_000, 28_000, 4_000),
        event("mm", 15_000, 16_000, 1_000),
    ]  # fmt: skip
    lines = [line.split() for line in time_table(events).splitlines()]
    assert lines[1:] == [
        ["generate:", "20", "ms"], ["-", "mm", "2", "3.0", "0.0"], ["grade:", "0", "ms"],
        ["update:", "5", "ms"], ["-", "mm", "1", "4.0", "0.0"],
    ]  # fmt: skip
