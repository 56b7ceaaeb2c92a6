"""A digest of the prompts of a run, so that a resumed run notices when its data has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from dapo_lightning.data import DataError
from dapo_lightning.types import Prompt

Digest = dict[str, str]
"""For each split, the number of its prompts and a hash of them, in order."""


def digest_of(splits: Mapping[str, Sequence[Prompt]]) -> Digest:
    """Hashes texts, messages, answers and columns. Of values other than text, numbers, lists and records, only the type
    is hashed."""
    return {split: f"{len(prompts)} prompts, {_hash(prompts)}" for split, prompts in splits.items()}


def check_same(before: Digest, now: Digest) -> None:
    """Compares the prompts of a resumed run with those with which it began.

    Raises:
        DataError: naming the split and the remedy, if they differ.
    """
    for split in sorted(before.keys() & now.keys()):
        if before[split] != now[split]:
            raise DataError(
                f"resume: the {split} prompts have changed since this run was saved (before: {before[split]}; now: "
                f"{now[split]}). Restore the original data, or start a new run."
            )


def _hash(prompts: Sequence[Prompt]) -> str:
    found = hashlib.sha256()
    for prompt in prompts:
        row = [prompt.text, prompt.answer, prompt.messages, prompt.columns]
        found.update(json.dumps(row, default=lambda value: type(value).__name__, skipkeys=True).encode())
    return found.hexdigest()[:16]
