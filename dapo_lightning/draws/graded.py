"""Checks whether the completions of a step or of an evaluation could be graded.

All functions receive the records of all ranks, so that the result is the same on every rank.
"""

from __future__ import annotations

import logging
import re
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


class Failures:
    """Reports the completions of a run that could not be graded.

    Args:
        on_error: see `Reward`.
    """

    def __init__(self, on_error: str) -> None:
        self._on_error = on_error
        self._told: set[str] = set()

    def report(self, records: Sequence[GroupRecord], where: str, is_first_step: bool = False) -> None:
        """Warns of each kind of exception that the reward raises, once in a run, and of other failures if there are
        many.

        Raises:
            RewardError: if the reward raised an exception, and this ends the run.
        """
        failures, num_completions = _failures(records), sum(len(record.failures) for record in records)
        errors = [row for failure, row in failures if failure == "error"]
        if errors and (self._on_error == "stop" or (self._on_error == "stop_early" and is_first_step)):
            raise RewardError(
                f"{where}: the reward raised an exception on {len(errors)} of {num_completions} completions, first on "
                f"{errors[0]}. Correct the reward, or count such completions as failed with reward.on_error=wrong."
            )
        new = {_kind(detail) for record in records for detail in _errors(record)} - self._told
        self._told |= new
        if new or len(failures) > _LARGE * num_completions:
            _warn("%s: %d of %d completions could not be graded: %s",
                  where, len(failures), num_completions, _kinds(failures))  # fmt: skip


def _errors(record: GroupRecord) -> list[str]:
    pairs = zip(record.failures, record.details, strict=True)
    return [detail for failure, detail in pairs if failure == "error"]


def _kind(detail: str) -> str:
    """Returns the name of an exception without its message, which may depend on the completion."""
    found = re.search(r"\b[A-Z]\w*(?=: |$)", detail)
    return found[0] if found else "other"


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
