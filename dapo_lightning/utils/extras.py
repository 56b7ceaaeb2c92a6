"""Finds the extra of this package that installs an optional package."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires


def extra_with(module: str) -> str | None:
    """Returns the extra that installs a module, or None if none does."""
    package = module.partition(".")[0].replace("_", "-")
    try:
        requirements = requires("dapo-lightning") or []
    except PackageNotFoundError:
        return None
    for requirement in requirements:
        name, extra = re.match(r"[\w.-]+", requirement), re.search(r"extra == ['\"]([\w-]+)", requirement)
        if name and extra and name[0].replace("_", "-").lower() == package.lower():
            return extra[1]
    return None
