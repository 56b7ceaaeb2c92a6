"""Checks whether the completions of a step or of an evaluation could be graded.

All functions receive the records of all ranks, so that the result is the same on every rank.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_only

from dapo_lightning.draws.record import GroupRecord
from dapo_lightning.reward import RewardError

log = logging.getLogger(__name__)

_LARGE = 0.1  # share of the completions; a few hostile texts do not reach it


def require_grades(records: Sequence[GroupRecord], where: str) -> None:
    """Raises RewardError if nothing could be graded.

    Args:
        where: the beginning of the sentence, such as "step 3".
    """
    failures = _failures(records)
    if failures and len(failures) == sum(len(record.failures) for record in records):
        raise RewardError(
            f"{where}: none of {len(failures)} completions could be graded: {_kinds(failures)}. Fix the reward, raise "
            "the limit that was exceeded, or add what the reward needs to access to reward.allow."
        )


def warn_of_failures(records: Sequence[GroupRecord], where: str) -> None:
    """Warns if the reward raised an exception, or if many completions could not be graded for another reason."""
    failures, num_completions = _failures(records), sum(len(record.failures) for record in records)
    if len(failures) > _LARGE * num_completions or any(failure == "error" for failure, _ in failures):
        _warn("%s: %d of %d completions could not be graded: %s",
              where, len(failures), num_completions, _kinds(failures))  # fmt: skip


def _failures(records: Sequence[GroupRecord]) -> list[tuple[str, str]]:
    """Returns, for each completion that could not be graded, the kind of failure, and its row with the details."""
    return [
        (failure, f"{record.source}: {detail}")
        for record in records
        for failure, detail in zip(record.failures, record.details, strict=True)
        if failure is not None
    ]


def _kinds(failures: Sequence[tuple[str, str]]) -> str:
    counts, firsts = Counter(failure for failure, _ in failures), dict(reversed(failures))
    return "; ".join(f"{count} {failure} (first {firsts[failure]})" for failure, count in counts.items())


_warn = rank_zero_only(log.warning)  # all ranks have the same records
