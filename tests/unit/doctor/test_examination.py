"""The doctor finds each planted fault of data, reward and settings, and nothing if there is none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_group
from runs import config, ends_with

from dapo_lightning.doctor import examine
from dapo_lightning.doctor.near_misses import near_misses
from dapo_lightning.doctor.text import facts
from dapo_lightning.doctor.visible import visible
from dapo_lightning.run.visit import patient
from dapo_lightning.types import Grade, Prompt

POLICY = ("policy.warm_start=null", "policy.hidden_size=32", "policy.intermediate_size=64", "policy.num_heads=2")
SETTINGS = (
    *POLICY, "data=jsonl", "rollout._target_=scripted.Scripted", "doctor.num_prompts=12", "max_prompt_tokens=12",
    "num_prompts_per_step=4", "num_completions_per_prompt=8", "max_new_tokens=8", "evaluation.num_prompts=null",
    "run_folder=x",
)  # fmt: skip
Rows = list[dict[str, str]]


def sums(numbers: range) -> Rows:
    return [{"prompt": f"{i // 9}a+{i % 9 + 1}=", "answer": str(i // 9 + i % 9 + 1)} for i in numbers]


def written(folder: Path, change: Callable[[Rows, Rows], object] = lambda train, held_out: None) -> list[str]:
    """The overrides that name the data, after a fault was planted."""
    train, held_out = sums(range(30)), sums(range(40, 50))
    change(train, held_out)
    for name, rows in (("train", train), ("held_out", held_out)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"data.train_path={folder}/train.jsonl", f"data.validation_path={folder}/held_out.jsonl"]


def reward(name: str) -> list[str]:
    return ["reward=function", f"reward.path=scripted.{name}"]


def changed(row: int, **values: str) -> Callable[[Rows, Rows], object]:
    return lambda train, held_out: train[row].update(values)


@pytest.mark.parametrize("clean", [["reward=exact"], reward("number")], ids=["exact", "function"])
def test_nothing_is_found_on_clean_data(clean, tmp_path):
    diagnosis = examine(patient(config(*SETTINGS, *written(tmp_path), *clean)))
    assert diagnosis.findings == ()
    assert (diagnosis.references.num_graded, diagnosis.references.num_right) == (40, 40)
    assert sum(diagnosis.sample.pass_rates) == 12 and 0.5 < diagnosis.sample.accuracy < 0.85
    assert diagnosis.sample.mean_length == pytest.approx(3.1, abs=0.3)  # `#7` and the end
    assert 1 <= diagnosis.forecast.rounds < 3 and diagnosis.forecast.groups >= 4
    assert "h100" in diagnosis.forecast.planned


@pytest.mark.parametrize(
    ("kind", "change", "overrides", "shows"),
    [
        # of the data
        ("unreadable", changed(3, answer="#4"), [], r"train\.jsonl:4: '#4'"),
        ("reference_wrong", changed(3, answer="04"), reward("number"), r"train\.jsonl:4: '04'"),
        ("duplicate", lambda train, _: train.append(train[5]), [], r"train\.jsonl:6, .*train\.jsonl:31"),
        ("contradiction", changed(4, prompt="0a+4="), [], r"train\.jsonl:4: '4', .*train\.jsonl:5: '5'"),
        ("in_both", lambda train, held_out: held_out.append(train[0]), [], r"train\.jsonl:1 equals .*out\.jsonl:11"),
        ("too_long", changed(3, prompt="1" + "a+1" * 9 + "="), [], r"train\.jsonl:4: \d\d tokens"),
        ("same_answer", lambda train, _: [row.update(answer="7") for row in train[1:]], [], None),
        # of the reward
        ("accepts_nothing", None, reward("accepts_all"), None),
        ("accepts_wrong", None, reward("accepts_any_number"), r"train\.jsonl:1: '2' for '1'"),
        ("not_graded", None, reward("dislikes_nine"), r"error ValueError: a nine, on '#9'"),
        ("unstable", None, reward("noisy"), r"train\.jsonl:\d+: 1\.\d+, then 1\.\d+: '#\d+'"),
        ("reward_fails", None, reward("needs_a_column"), None),
        # of the settings
        ("truncated", None, ["max_new_tokens=2", "overlong=none"], None),
        ("no_answer", None, ["reward.marker='@'"], r"train\.jsonl:\d+: …'#\d+'"),
        ("nothing_useful", None, ["+rollout.right=1.0"], None),
        ("punished", None, ["max_new_tokens=4", "overlong.cache_tokens=3"], None),
        ("short_batches", None, ["+rollout.right=0.99", "sampling.max_rounds=1"], None),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(kind, change, overrides, shows, tmp_path):
    data = written(tmp_path, change) if change else written(tmp_path)
    findings = {finding.kind: finding for finding in examine(patient(config(*SETTINGS, *data, *overrides))).findings}
    assert kind in findings
    assert shows is None or re.search(shows, "\n".join(findings[kind].rows))


OF_SET = (
    "+data@evaluation.sets.more.data=jsonl", "+reward@evaluation.sets.more.reward=function",
    "+evaluation.sets.greedy={num_completions: 1, temperature: 0}",
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change", "reward", "says", "shows"),
    [
        (None, None, "number", "", ""),
        ("reference_wrong", changed(1, answer="08"), "number", "evaluation.sets.more: 1 of 10", r"more\.jsonl:2: '08'"),
        ("duplicate", lambda more, _: more.append(more[2]), "number", "1 of 11 held-out (more) prompts repeat",
         r"more\.jsonl:3, .*more\.jsonl:11"),
        ("in_both", lambda more, train: more.append(train[0]), "number", "1 of 11 held-out (more) prompts are also",
         r"train\.jsonl:1 equals .*more\.jsonl:11"),
        ("too_long", changed(0, prompt="1" + "a+1" * 9 + "="), "number", "1 of 50", r"more\.jsonl:1: "),
        ("accepts_wrong", None, "accepts_any_number", "evaluation.sets.more: The reward counts the answer of", ""),
        ("reward_fails", None, "needs_a_column", "evaluation.sets.more: The reward cannot grade", ""),
    ],
)  # fmt: skip
def test_held_out_sets_are_examined_too(kind, change, reward, says, shows, tmp_path):
    data, more = written(tmp_path), sums(range(60, 70))
    if change:
        change(more, sums(range(30)))
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    more_data = [f"evaluation.sets.more.data.validation_path={tmp_path}/more.jsonl"]
    more_data += [f"evaluation.sets.more.reward.path=scripted.{reward}"]
    diagnosis = examine(patient(config(*SETTINGS, *data, "reward=exact", *OF_SET, *more_data)))
    assert [finding.kind for finding in diagnosis.findings] == ([kind] if kind else [])
    for finding in diagnosis.findings:
        assert says in finding.sentence and re.search(shows, "\n".join(finding.rows))
    assert diagnosis.num_prompts["held-out (more)"] == len(more) and diagnosis.references.num_graded == 40
    assert list(diagnosis.references_of_sets) == ["more"] and ("set more" in dict(facts(diagnosis)))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("evaluation.num_prompts=11", r"num_prompts=11, but the dataset holds 10 held-out prompts"),
        ("+evaluation.sets.more={num_prompts: 11}", r"sets\.more\.num_prompts=11, but the dataset holds 10"),
        ("+evaluation.sets.more={top_p: 5}", r"evaluation\.sets\.more\.top_p"),
    ],
)
def test_a_held_out_set_that_the_run_would_refuse_is_refused(override, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        examine(patient(config(*SETTINGS, *written(tmp_path), override)))


def test_an_answer_that_is_cut_off_is_a_near_miss_and_a_missing_one_is_not():
    group = replace(
        make_group(0, [-1.0] * 4, truncated=[True, True, False, False]),
        prompt=Prompt("60+63=", "123", "train:1"),
        texts=("It is 12", "60+63 is 123, so", "It is 123.", "It is 5"),
        grades=tuple(Grade(-1.0, False, answer) for answer in ("12", None, None, "5")),
    )
    cut_off, no_answer = near_misses([group])
    assert (cut_off.answer, cut_off.cut_off) == ("12", True) and cut_off.likeness == pytest.approx(0.8)
    assert (no_answer.text, no_answer.cut_off, no_answer.likeness) == ("It is 123.", False, 0.5)


def test_the_command_ends_with_a_status_and_escapes_what_others_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    hostile = "<script>alert(1)</script>\x1b[31m\u202e"
    clean, faulty = (*SETTINGS[:-1], *written(tmp_path)), tmp_path / "faulty"
    assert doctor(monkeypatch, *clean, "run_folder=clean") == ""
    assert "nothing was found" in capsys.readouterr().out
    faulty.mkdir()
    data = written(faulty, lambda train, _: train.extend([{"prompt": "1a+1=", "answer": hostile}] * 2))
    assert doctor(monkeypatch, *SETTINGS[:-1], *data, "run_folder=found") == "3"
    shown, page = capsys.readouterr().out, (tmp_path / "found" / "doctor.html").read_text()
    assert "train.jsonl" in shown
    assert not {"\x1b", "\u202e"} & {*shown, *page}
    assert visible("a\x1b\u202eb\n") == "a⟨U+001B⟩⟨U+202E⟩b\n"
    assert "<script" not in page and "&lt;script&gt;" in page and "default-src 'none'" in page
    found = json.loads((tmp_path / "found" / "doctor.json").read_text())
    assert {"duplicate", "contradiction"} <= {finding["kind"] for finding in found["findings"]}
    assert "error: " in doctor(monkeypatch, *clean, "clip.upper=0.28")  # refused, as the run would be


def doctor(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> str:
    return ends_with(monkeypatch, "mode=doctor", *overrides)
