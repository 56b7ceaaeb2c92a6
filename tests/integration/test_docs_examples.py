"""The examples of the extension pages, as a reader would use them: files are written, tests pass, options train."""

from __future__ import annotations

import re
import runpy
from fnmatch import fnmatch
from pathlib import Path

import pytest
from runs import run

from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.run.options import takes_list
from docs.pages import DOCS
from docs.reference import metrics

BLOCK = re.compile(r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```', re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", sorted((DOCS / "extend").glob("*.md")), ids=lambda page: page.stem)
def test_examples_run(page, tmp_path, monkeypatch):
    blocks = [match.groupdict() for match in BLOCK.finditer(page.read_text())]
    for block in blocks:
        if block["title"]:
            path = tmp_path / block["title"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block["code"])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks:
        if block["language"] == "python" and not block["title"] and not block["code"].startswith("include:"):
            exec(compile(block["code"], str(page), "exec", dont_inherit=True), namespace)
    for path in tmp_path.glob("test_*.py"):
        for name, test in runpy.run_path(str(path)).items():
            if name.startswith("test_"):
                test()
    for path in tmp_path.glob("conf/*/*.yaml"):
        _train(tmp_path, path)


def _train(folder: Path, option: Path) -> None:
    """Two DAPO steps with the option, found by Hydra's search path; every metric is in the reference and glossary."""
    group = option.parent.name
    searchpath = f"hydra.searchpath=[file://{folder / 'conf'}]"
    sign = "+" if takes_list(group) else ""  # another logger beside the default ones
    overrides = (searchpath, f"{sign}{group}={option.stem}", "sampling=static", "num_steps=2")
    trained = read_metrics(run(folder / f"run_{option.stem}", *overrides) / "metrics.csv")
    assert [row["step"] for row in trained if "loss" in row] == [1, 2]
    own = {name for path in folder.glob("*.py") for name in re.findall(r'"(\w+/\w+)"', path.read_text())}
    logged = {name for row in trained for name in row} - {"step"}
    assert own <= logged
    glossary = re.findall(r"`([^`\s]+)`", (DOCS / "use/monitoring.md").read_text().partition("## Glossary")[2])
    described = {
        re.sub(r"<\w+>|\.\.\.|@[nk]\b", lambda found: "@*" if found[0][0] == "@" else "*", n) for n in glossary
    }
    computed = {re.sub(r"<[^>]*>", "*", name) for name in metrics()}
    for name in logged - own:
        assert any(fnmatch(name, known) for known in described), f"{name} is not in the glossary of monitoring.md"
        assert any(fnmatch(name, known) for known in computed), f"{name} is not in the reference"
