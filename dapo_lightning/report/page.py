"""Data -> one self-contained HTML file.

Everything that a policy wrote is hostile text. It reaches the page only as JSON in a script element, escaped so that no
text can end the element, and the page's script shows it only with `textContent`. A content security policy allows this
page's own script (by its hash) and forbids every request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dapo_lightning.utils.atomic import replacing

_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_SCRIPTS = ("dom.js", "charts.js", "tokens.js", "step.js", "groups.js", "tables.js", "main.js")


def safe_json(data: Any) -> Markup:
    """Returns JSON that is safe in a script element. Numbers that JSON cannot express become null."""
    text = json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _ESCAPED.items():
        text = text.replace(character, escape)
    return Markup(text.encode("utf-8", "replace").decode())


def render(data: dict[str, Any]) -> str:
    """Returns the page. `data["title"]` is its title; `templates/main.js` reads everything else."""
    templates = Environment(
        loader=PackageLoader("dapo_lightning.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    source = "\n".join(templates.loader.get_source(templates, name)[0] for name in _SCRIPTS)  # type: ignore[union-attr]
    script = f'"use strict";\n(() => {{\n{source}\n}})();\n'
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = templates.loader.get_source(templates, "style.css")[0]  # type: ignore[union-attr]
    return templates.get_template("page.html.jinja").render(
        title=data["title"], data=safe_json(data), script=Markup(script), digest=digest, style=Markup(style)
    )


def write_page(data: dict[str, Any], path: Path) -> None:
    """Writes the page atomically."""
    with replacing(path) as partial:
        partial.write_text(render(data), encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
