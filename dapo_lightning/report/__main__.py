"""`dapo-lightning report <folder>` or `python -m dapo_lightning.report <folder>`: one HTML page about runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dapo_lightning.report.page import write_page
from dapo_lightning.report.run_data import run_data
from dapo_lightning.utils.console import show_all_characters

MEGABYTES = 20.0

HELP = """Writes report.html into the folder: one self-contained file that opens in any browser.

For a run, it shows curves, every step, and every completion with its tokens; for a folder of several runs, the tables
and figures of the study, and the runs side by side (this needs the extra `study`)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for a folder without runs, 1 if a file cannot be read or written."""
    parser = argparse.ArgumentParser(
        "dapo-lightning report", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder of a run, or a folder with run folders below it")
    parser.add_argument("--output", type=Path, help="the file to write (default: report.html in the folder)")
    parser.add_argument("--megabytes", type=float, default=MEGABYTES, help="room for completions (default: 20)")
    show_all_characters()
    parsed = parser.parse_args(arguments)
    try:
        print(f"wrote {report(parsed.folder, parsed.output, parsed.megabytes)}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


def report(folder: Path, output: Path | None = None, megabytes: float = MEGABYTES) -> Path:
    """Writes the page of a run or of a sweep, and returns its path.

    Raises:
        ValueError: if the folder contains no run.
        OSError: if the page cannot be written.
    """
    path = output or folder / "report.html"
    if is_run(folder):
        write_page(run_data(folder, megabytes), path)
    else:
        from dapo_lightning.report.sweep_data import sweep_data  # pandas and scipy take seconds to import

        write_page(sweep_data(folder, path.parent), path)
    return path


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run rather than one of a sweep."""
    return (folder / "config.yaml").is_file() or (folder / "metrics.csv").is_file()


if __name__ == "__main__":
    sys.exit(main())
