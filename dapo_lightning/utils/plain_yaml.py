"""Reads YAML from untrusted sources: plain values that take little more memory than the file has bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

MAX_BYTES = 1_000_000  # the configuration of a run has about 10,000


def read(path: Path) -> Any:
    """Returns the content of a file. Aliases, with which ten lines can stand for a billion values, are refused; runs
    never write any.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it cannot be read, is too large, or contains aliases; the text is one line.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"it has {size:,} bytes, and no run writes more than {MAX_BYTES:,}")
        text = path.read_text(encoding="utf-8")
        for event in yaml.parse(text, yaml.CSafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"line {event.start_mark.line + 1} has the alias *{event.anchor}")
        return yaml.load(text, yaml.CSafeLoader)
    except FileNotFoundError:
        raise
    except (yaml.YAMLError, ValueError, OSError, RecursionError, OverflowError) as error:
        raise ValueError(str(error).partition("\n")[0]) from None


def written(content: Any) -> str:
    """Returns content as text that `read` accepts."""
    return yaml.dump(content, Dumper=_WithoutAliases, sort_keys=False, allow_unicode=True)


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True
