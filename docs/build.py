"""Builds the documentation site: `python -m docs.build`, or `make docs`.

Pages are expanded (code, YAML, formulas), figures are drawn from the code, and the reference is generated; then
Zensical builds the site and refuses broken links, anchors and references. Nothing is fetched.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from docs.figures import draw_figures
from docs.pages import DOCS, ROOT, expanded, technique_pages
from docs.reference import api_pages, reference_pages

SITE = ROOT / "outputs" / "docs"


def write_sources(pages: Path) -> None:
    """Writes everything that the generator reads: expanded and generated pages, figures, assets."""
    for path in sorted(DOCS.rglob("*")):
        target = pages / path.relative_to(DOCS)
        if path.suffix == ".md":
            _write(target, expanded(path))
        elif path.suffix in (".png", ".css", ".html"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    for name, text in reference_pages().items():
        _write(pages / name, text)
    draw_figures(pages / "assets" / "drawn")


def build() -> int:
    """Builds the site into outputs/docs/site; returns the exit code of the generator."""
    shutil.rmtree(SITE, ignore_errors=True)
    write_sources(SITE / "pages")
    api = ", ".join(f'"{name}"' for name in api_pages())
    techniques = ", ".join(f'"{name}"' for name in technique_pages())
    settings = (DOCS / "zensical.toml").read_text().replace('"API" = []', f'"API" = [{api}]')
    settings = settings.replace('"Techniques" = []', f'"Techniques" = [{techniques}]')
    (SITE / "zensical.toml").write_text(settings)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", "zensical.toml"]
    code = subprocess.run(command, cwd=SITE).returncode
    if code == 0:
        print(f"The documentation is in {(SITE / 'site' / 'index.html').relative_to(ROOT)}.")
    return code


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    sys.exit(build())
