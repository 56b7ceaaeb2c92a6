"""The diagnosis as one HTML file without scripts. Jinja escapes every text."""

from __future__ import annotations

from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dapo_lightning.doctor.examination import Diagnosis
from dapo_lightning.doctor.text import bars, facts, verdict
from dapo_lightning.doctor.visible import visible
from dapo_lightning.utils.atomic import replacing

_MAX_ROWS, _MAX_CHARACTERS = 1000, 5000  # of a finding, and of a text


def write_page(diagnosis: Diagnosis, command: str, path: Path) -> None:
    """Writes the page atomically.

    Args:
        command: the one that the diagnosis comes from.
    """
    loader = ChoiceLoader([PackageLoader("dapo_lightning.doctor"), PackageLoader("dapo_lightning.report")])
    templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    templates.filters["visible"] = lambda text: visible(_shortened(text))
    style = loader.get_source(templates, "style.css")[0]
    counts = bars(diagnosis.sample) if diagnosis.sample else []
    text = templates.get_template("doctor.html.jinja").render(
        command=command,
        style=Markup(style),
        diagnosis=diagnosis,
        verdict=verdict(diagnosis),
        facts=facts(diagnosis),
        bars=counts,
        most=max((count for _, count in counts), default=1),
        max_rows=_MAX_ROWS,
    )
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")


def _shortened(text: str) -> str:
    half = _MAX_CHARACTERS // 2
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:half]}\n[...]\n{text[-half:]}"
