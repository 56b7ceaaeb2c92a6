"""Refuses or leaves out rows whose reference answer a reward cannot use: every answer to them would be wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import compress

from lightning.pytorch.utilities import rank_zero_only

from dapo_lightning.types import Prompt

log = logging.getLogger(__name__)

_SHOWN = 20  # rows that a message names


def without_unreadable(prompts: Sequence[Prompt], is_unread: Sequence[bool], policy: str, why: str) -> list[Prompt]:
    """Returns the prompts with usable references; a warning names the others.

    Args:
        policy: "error" or "skip".
        why: completes the sentence "3 of 10 reference answers, which ...".

    Raises:
        ValueError: with policy "error", if a reference is unusable; also if none is usable.
    """
    unread = list(compress(prompts, is_unread))
    if not unread:
        return list(prompts)
    rows = ", ".join(f"{prompt.source} ({prompt.answer[:40]!r})" for prompt in unread[:_SHOWN])
    rows += f" and {len(unread) - _SHOWN} more" if len(unread) > _SHOWN else ""
    found = f"{len(unread)} of {len(prompts)} reference answers, which {why}: {rows}"
    if policy == "error" or len(unread) == len(prompts):
        remedy = (
            "Correct them" if policy == "skip" else "Correct them, or leave out these rows with reward.unreadable=skip"
        )
        raise ValueError(f"the data holds {found}. {remedy}.")
    _warn("reward.unreadable=skip leaves out %s", found)
    return [prompt for prompt, unusable in zip(prompts, is_unread, strict=True) if not unusable]


_warn = rank_zero_only(log.warning)  # all ranks read the same rows
