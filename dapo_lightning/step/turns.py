"""Computes metrics by turn, for completions that may have several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from statistics import fmean
from typing import TypeVar

from dapo_lightning.draws.record import GroupRecord

Accuracies = Callable[[Sequence[Sequence[bool]], Sequence[Sequence[str | None]]], dict[str, list[float]]]
Value = TypeVar("Value")


def turn_metrics(records: Sequence[GroupRecord]) -> dict[str, float]:
    """Returns the metrics of a DAPO step by turn; nothing if there can be only one turn.

    `turns/accuracy_k` is the accuracy after at most k turns. `turns/tokens_k` is the mean number of tokens that the
    policy wrote in turn k, over the completions that had one. The accuracy of the last turn exceeds that of the first
    by `turns/corrected` - `turns/spoilt`.
    """
    tokens = list(chain.from_iterable(record.turn_tokens for record in records))
    if not tokens:
        return {}
    metrics = {"turns/mean": mean_number(records)}
    for turn in range(1, 1 + max(map(len, tokens))):
        metrics[f"turns/tokens_{turn}"] = fmean(row[turn - 1] for row in tokens if turn <= len(row))
    correct = list(chain.from_iterable(record.turn_correct for record in records))
    for turn in range(1, 1 + max(map(len, correct))):
        metrics[f"turns/accuracy_{turn}"] = fmean(_after(correct, turn))
    if correct[0]:
        metrics["turns/corrected"] = fmean(map(_is_corrected, correct))
        metrics["turns/spoilt"] = fmean(map(_is_spoilt, correct))
    return metrics


def evaluation_of_turns(records: Sequence[GroupRecord], accuracies: Accuracies) -> dict[str, list[float]]:
    """The accuracies of each prompt at each turn before the last, and its shares of corrected and spoilt completions;
    nothing if turns are not graded."""
    lengths = [len(row) for record in records for row in record.turn_correct]
    found: dict[str, list[float]] = {}
    if not any(lengths):
        return found
    for turn in range(1, max(lengths)):
        correct = [_after(record.turn_correct, turn) for record in records]
        votes = [_after(record.turn_votes, turn) for record in records]
        found |= {f"turn_{turn}/{name}": values for name, values in accuracies(correct, votes).items()}
    found["corrected"] = [fmean(map(_is_corrected, record.turn_correct)) for record in records]
    found["spoilt"] = [fmean(map(_is_spoilt, record.turn_correct)) for record in records]
    return found


def mean_number(records: Sequence[GroupRecord]) -> float:
    """The mean number of turns of a completion."""
    return fmean(len(row) for record in records for row in record.turn_tokens)


def _after(rows: Sequence[Sequence[Value]], turn: int) -> list[Value]:
    """The values of the rows at a turn (from 1 on), or at their last turn if that came before."""
    return [row[min(turn, len(row)) - 1] for row in rows]


def _is_corrected(correct: Sequence[bool]) -> bool:
    return not correct[0] and correct[-1]


def _is_spoilt(correct: Sequence[bool]) -> bool:
    return correct[0] and not correct[-1]
