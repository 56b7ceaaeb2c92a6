"""Generates the reference pages from the code and the configuration tree; none of them is written by hand."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from docs.pages import ROOT

PACKAGE = ROOT / "dapo_lightning"
CONF = ROOT / "conf"
GENERATED = ("reference/command.md", "reference/configuration.md", "reference/metrics.md")  # and the pages of the API


def reference_pages() -> dict[str, str]:
    """All generated pages, by their path in the site."""
    return dict(zip(GENERATED, (command_page(), configuration_page(), metrics_page()), strict=True)) | api_pages()


def api_pages() -> dict[str, str]:
    """One page for each room of the package, found by looking for it: mkdocstrings fills in the members."""
    rooms = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    modules = sorted(path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_"))
    package = "# dapo_lightning\n\n::: dapo_lightning\n    options:\n      show_submodules: false\n"
    pages = {"reference/api/index.md": package}
    for name in [*modules, *rooms]:
        pages[f"reference/api/{name}.md"] = f"# {name}\n\n::: dapo_lightning.{name}\n"
    return pages


def command_page() -> str:
    """What `python train.py --help` prints."""
    found = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return f"# Command line\n\n`python train.py --help` prints:\n\n```text\n{found.stdout.strip()}\n```\n"


@dataclass(frozen=True)
class MetricSource:
    """Where a metric is computed: a module of the package and the name of the function or method."""

    module: str
    function: str


def metrics() -> dict[str, MetricSource]:
    """Every metric that options and the step log, by name; `<...>` stands for a part that is not known before a run."""
    found = {}
    for path in [*sorted(PACKAGE.glob("algorithm/*.py")), *sorted(PACKAGE.glob("step/*.py"))]:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for name, function in _functions(ast.parse(path.read_text()), ""):
            for node in ast.walk(function):
                for key in _string_keys(node):
                    if name.startswith("evaluation_"):
                        found[f"validation/{key}"] = MetricSource(module, name)
                    elif re.fullmatch(r"[a-z_]+/[\w@<>]+|" + "|".join(PLAIN_METRICS), key):
                        found.setdefault(key, MetricSource(module, name))
    return found


PLAIN_METRICS = ("accuracy", "entropy", "probability", "loss", "learning_rate")  # the others have a group: group/name


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")


def _string_keys(node: ast.AST) -> Iterator[str]:
    """The keys of a dictionary in the source, and of an assignment to one; a variable part in angle brackets."""
    keys: list[ast.expr | None] = []
    if isinstance(node, ast.Dict):
        keys = node.keys
    elif isinstance(node, ast.DictComp):
        keys = [node.key]
    elif isinstance(node, ast.Assign):
        keys = [target.slice for target in node.targets if isinstance(target, ast.Subscript)]
    for key in keys:
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value
        elif isinstance(key, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else _variable(part) for part in key.values)


def _variable(part: ast.expr) -> str:
    return f"<{ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else 'x'}>"


def metrics_page() -> str:
    """A table of all metrics with the place in the code that computes them."""
    rows = [
        f"| `{name}` | [`{source.module}`][{source.module}] | `{source.function}` |"
        for name, source in sorted(metrics().items())
    ]
    text = (
        "This table is read from the source of the options and of the step. The "
        "[glossary](../use/monitoring.md#glossary) explains what the metrics mean. "
        "Those of an option are logged only if the option is chosen."
    )
    return "\n".join(["# Metrics", "", text, "", "| metric | module | computed by |", "|---|---|---|", *rows]) + "\n"


def configuration_page() -> str:
    """Plain keys with their defaults and comments, then every option of every group with its file."""
    sections = ["# Configuration", "## Plain keys", "From `conf/config.yaml`:", _plain_keys(CONF / "config.yaml")]
    meanings = dict(re.findall(r"^  - (\w+): \w+ *# (.*)$", (CONF / "config.yaml").read_text(), re.MULTILINE))
    for group in sorted(path for path in CONF.iterdir() if path.is_dir()):
        if group.name == "hydra":
            continue
        sections.append(f"## {group.name}")
        if meaning := meanings.get(group.name):
            sections.append(f"{meaning[0].upper()}{meaning[1:]}.")
        for path in sorted(group.glob("*.yaml")):
            sections.append(_option(group.name, path))
    for group in sorted(path.parent for path in CONF.glob("hydra/*/*.yaml")):
        if group.name != "help" and f"## hydra/{group.name}" not in sections:
            sections.append(f"## hydra/{group.name}")
            sections += [_option(f"hydra/{group.name}", path) for path in sorted(group.glob("*.yaml"))]
    return "\n\n".join(sections) + "\n"


def _option(group: str, path: Path) -> str:
    text = path.read_text().rstrip()
    lines = [f"### `{group}={path.stem}`"]
    target = (yaml.safe_load(text) or {}).get("_target_", "")
    if target.startswith("dapo_lightning."):
        lines.append(f"Implemented by [`{target.rpartition('.')[2]}`][{target}].")
    return "\n\n".join([*lines, f'```yaml title="{path.relative_to(ROOT)}"\n{text}\n```'])


def _plain_keys(path: Path) -> str:
    """A table of key, default and comment; nested keys are written with dots."""
    rows, parents, in_defaults = ["| key | default | meaning |", "|---|---|---|"], [], False
    for line in path.read_text().splitlines():
        found = re.match(r"^(?P<indent> *)(?P<key>\w+): *(?P<value>[^#]*?) *(?:# *(?P<comment>.*))?$", line)
        if not found:
            continue
        depth = len(found["indent"]) // 2
        in_defaults = found["key"] in ("defaults", "hydra") if depth == 0 else in_defaults
        if in_defaults:
            continue
        parents = [*parents[:depth], found["key"]]
        value = f"`{found['value']}`" if found["value"] else ""
        rows.append(f"| `{'.'.join(parents)}` | {value} | {found['comment'] or ''} |")
    return "\n".join(rows)
