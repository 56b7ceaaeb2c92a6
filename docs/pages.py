"""Expands a page of the documentation: source code by name, configuration by file, formulas as MathML.

A code block whose only line is `include: <path>` or `include: <path>::<name>` is replaced by that file, or by that
function, class or method, so that a page never holds a copy of the code. A block of language `markdown` is inserted as
text. A folder of `conf/` becomes a table of its options. Formulas ($...$, $$...$$) become MathML, which browsers
display without any script.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

from dapo_lightning.algorithm import Algorithm

DOCS = Path(__file__).parent
ROOT = DOCS.parent

_INCLUDE = re.compile(r"^```(?P<language>\w+)\ninclude: (?P<path>[^\s:]+)(?:::(?P<name>[\w.]+))?\n```$", re.MULTILINE)
_CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|(?<![\\\w$])\$(?P<inline>[^\s$](?:[^$\n]*[^\s$])?)\$(?!\w)", re.DOTALL)


def expanded(page: Path, formulas: bool = True) -> str:
    """The text of a page as the site generator reads it; `formulas` needs the extra `docs`.

    Raises:
        ValueError: if the page includes a file or a name that does not exist.
    """
    text = _INCLUDE.sub(lambda match: _included(page, **match.groupdict()), page.read_text())
    if not formulas:
        return text
    parts = _CODE.split(text)  # odd parts are code, in which a dollar sign is a dollar sign
    return "".join(part if i % 2 else _FORMULA.sub(_mathml, part) for i, part in enumerate(parts))


def source_of(path: Path, name: str) -> tuple[str, int]:
    """The source of a function, class or method (`Class.method`) and the number of its first line.

    Raises:
        ValueError: if the file does not define the name.
    """
    text = path.read_text()
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        found = [child for child in getattr(node, "body", []) if part in _names(child)]
        if not found:
            raise ValueError(f"{path.relative_to(ROOT)} does not define {name}.")
        node = found[-1]
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    return textwrap.dedent("\n".join(lines)), first


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    return [getattr(node, "name", "")]


def _included(page: Path, language: str, path: str, name: str | None) -> str:
    file = ROOT / path
    if file.is_dir():
        return _table_of_options(file)
    if not file.is_file():
        raise ValueError(f"{page.relative_to(ROOT)} includes {path}, which does not exist.")
    if language == "markdown":
        return _moved(file.read_text(), page)
    if name is None:
        return f'```{language} title="{path}"\n{file.read_text().rstrip()}\n```'
    source, first = source_of(file, name)
    return f'```{language} title="{path}" linenums="{first}"\n{source}\n```'


def _table_of_options(folder: Path) -> str:
    """Each option of a group with the first comment of its file, and a link to its page if it has one."""
    rows = ["| option | |", "|---|---|"]
    for file in sorted(folder.glob("*.yaml")):
        name, comment = f"`{folder.name}={file.stem}`", file.read_text().partition("\n")[0].lstrip("# ")
        page = f"{folder.name}/{file.stem}.md"
        has_page = (DOCS / "learn" / "techniques" / page).exists()
        rows.append(f"| [{name}]({page}) | {comment} |" if has_page else f"| {name} | {comment} |")
    return "\n".join(rows)


def technique_pages() -> list[str]:
    """The pages of the techniques in the order of the navigation: each group, followed by its options."""
    folder = DOCS / "learn" / "techniques"
    groups = [group for group in Algorithm.__dataclass_fields__ if (folder / f"{group}.md").exists()]
    groups += sorted({page.stem for page in folder.glob("*.md")} - set(groups))
    pages = [page for group in groups for page in (folder / f"{group}.md", *sorted((folder / group).glob("*.md")))]
    return [str(page.relative_to(DOCS)) for page in pages]


def _moved(text: str, page: Path) -> str:
    """Text of the repository's root whose links into docs/ are correct in `page`."""
    up = "../" * (len(page.relative_to(DOCS).parts) - 1)
    return text.replace("](docs/", f"]({up}")


def _mathml(match: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    if match["block"]:
        return f'<div class="formula">{convert(match["block"].strip(), display="block")}</div>'
    return f'<span class="formula">{convert(match["inline"])}</span>'
