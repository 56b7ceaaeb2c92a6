"""The report: hostile text stays text, what does not fit is said, and settings that differ are found."""

import json
import re
from html.parser import HTMLParser

import pytest
from report_runs import HOSTILE, write_hostile_run
from runs import ROOT, config, run

from dapo_lightning.report.__main__ import main, report
from dapo_lightning.report.page import render, safe_json
from dapo_lightning.report.rollouts import MAX_CHARACTERS, read_groups
from dapo_lightning.report.settings import settings
from dapo_lightning.run.command import as_dict, record_origin


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.scripts, self._in_script = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self._in_script = tag == "script"

    def handle_data(self, text):
        if self._in_script:
            self.scripts.append(text)
            self._in_script = False


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return write_hostile_run(tmp_path_factory.mktemp("hostile") / "run")


@pytest.mark.parametrize("text", [*HOSTILE.values(), "</SCRIPT >", "\x00", "&lt;script&gt;"])
def test_no_text_ends_its_script_element(text):
    escaped = safe_json({text: [text, {"x": text}]})
    assert not set("<>&\u2028\u2029") & set(escaped)
    assert json.loads(escaped) == json.loads(json.dumps({text: [text, {"x": text}]}).replace("\\ud83d", "?"))


def test_numbers_that_json_lacks_are_null():
    assert safe_json([float("nan"), float("inf"), 1.5]) == "[null,null,1.5]"


def test_hostile_completions_add_no_element(hostile, tmp_path):
    page = report(hostile, tmp_path / "page.html").read_text(encoding="utf-8")
    elements, plain = Elements(page), Elements(render({"title": "x", "kind": "sweep"}))
    assert [(tag, [*names]) for tag, names in elements.found] == [(tag, [*names]) for tag, names in plain.found]
    data = json.loads(elements.scripts[0])
    assert {c["text"] for group in data["groups"] for c in group["completions"]} >= {HOSTILE["end of script"]}
    assert max(len(c["text"]) for group in data["groups"] for c in group["completions"]) < MAX_CHARACTERS + 100
    assert (
        "https://" not in page.replace(HOSTILE["script"].partition("'")[2][:20], "").replace("example.com", "")[:5000]
    )


def test_the_page_forbids_requests_and_other_scripts():
    page = render({"title": "</title><script>alert(1)</script>", "kind": "sweep"})
    (policy,) = [names["content"] for tag, names in Elements(page).found if names.get("http-equiv")]
    assert "default-src 'none'" in policy and re.search(r"script-src 'sha256-[\w+/]+='", policy)
    assert "&lt;/title&gt;" in page


def test_the_scripts_never_make_elements_from_text():
    for path in (ROOT / "dapo_lightning/report/templates").glob("*.js"):
        forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|\bfetch\(|XMLHttpRequest"
        assert not re.search(forbidden, path.read_text()), path


def test_what_does_not_fit_is_said(hostile):
    everything, nothing_said = read_groups(hostile / "rollouts", 20)
    some, said = read_groups(hostile / "rollouts", 0.06)
    assert len(everything["groups"]) == 12 and not nothing_said
    assert 0 < len(some["groups"]) < 12 and said[0].startswith(f"{12 - len(some['groups'])} of 12 groups are left out")
    assert any(group["tokens"] for group in some["groups"])


def test_damaged_files_are_named(tmp_path, hostile):
    (tmp_path / "step_000001.parquet").write_bytes(b"PAR1 cut off")
    (tmp_path / "step_000002.parquet").write_bytes((hostile / "rollouts/step_000002.parquet").read_bytes())
    found, notes = read_groups(tmp_path, 20)
    assert {group["step"] for group in found["groups"]} == {2} and "step 1 cannot be read" in notes[0]


@pytest.mark.parametrize(
    ("overrides", "differing"),
    [
        ((), {}),
        (("clip.upper=1.4", "num_steps=7"), {"clip.upper": ("1.4", "1.28"), "num_steps": ("7", "40")}),
        (("loss=sample_level",), {"loss": ("sample_level", "token_level")}),
        (("optimizer.lr=1e-3",), {"optimizer.lr": ("0.001", "5e-05")}),
    ],
)
def test_settings_that_differ_from_the_default(overrides, differing):
    rows = settings(as_dict(record_origin(config("run_folder=x", *overrides))))
    found = {row["name"]: (row["value"], row["default"]) for row in rows if row["differs"]}
    assert found == differing


def test_a_run_writes_its_page(tmp_path, capsys):
    folder = run(tmp_path / "run", "num_steps=2")
    assert "report.html" in capsys.readouterr().out
    data = json.loads(Elements((folder / "report.html").read_text()).scripts[0])
    assert data["steps"] == [0, 1, 2] and {group["step"] for group in data["groups"]} == {1, 2}
    assert main([str(folder), "--output", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_bytes() == (folder / "report.html").read_bytes()


def test_a_folder_without_runs(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "contains no run" in capsys.readouterr().err
