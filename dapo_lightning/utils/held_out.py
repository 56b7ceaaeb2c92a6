"""The names of held-out metrics: those of a set of `evaluation.sets` begin with its name, as in `gsm8k/avg@8`."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ACCURACY = re.compile(r"(?!turn_\d+/)([\w-]+)/(avg@\d+)")


def accuracies_of_sets(names: Iterable[str]) -> list[tuple[str, str]]:
    """Returns each set with its accuracy, such as ("gsm8k", "avg@8"), given the names of all held-out metrics without
    `validation/`."""
    return [(found[1], found[2]) for name in names if (found := _ACCURACY.fullmatch(name))]
