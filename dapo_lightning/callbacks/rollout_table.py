"""The columns of a rollout file: a row for each completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa
from torch import Tensor

from dapo_lightning.types import Group

_TEXT, _FLOATS = pa.string(), pa.list_(pa.float32())
SCHEMA = pa.schema(
    {
        "step": pa.int32(),  # the DAPO step that this file belongs to, counted from 1
        "group": pa.int64(),  # number of the prompt in the order of the run; the same in every row of a group
        "completion": pa.int32(),  # place in the group, from 0
        "fate": _TEXT,  # see callbacks/fates.py
        "verdict": _TEXT,  # why the sampling option kept or dropped the group: useful, all_correct, all_wrong
        "source": _TEXT,  # the row of the data
        "prompt": _TEXT,
        "messages": pa.list_(pa.struct({"role": _TEXT, "content": _TEXT})),  # the chat, if the prompt is one
        "reference": _TEXT,  # the answer in the data
        "text": _TEXT,  # the completion
        "tokens": pa.list_(pa.int32()),
        "turns": pa.list_(pa.struct({"by_policy": pa.bool_(), "num_tokens": pa.int32()})),
        "num_tokens": pa.int32(),  # written by the policy
        "truncated": pa.bool_(),
        "score": pa.float64(),
        "correct": pa.bool_(),
        "answer": _TEXT,  # what the reward found
        "stage": _TEXT,  # how the reward decided, or the outcome of a program
        "parts": pa.list_(pa.struct({"name": _TEXT, "score": pa.float64()})),  # of a weighted reward
        "failure": _TEXT,  # why the completion could not be graded
        "detail": _TEXT,
        "reward": pa.float64(),  # the score with the overlong penalty
        "advantage": pa.float32(),  # mean over tokens of the policy; null for completions that are not in the loss
        "mean_logp": pa.float32(),  # per token, while sampling
        "mean_entropy": pa.float32(),
        "policy_step": pa.int32(),  # number of DAPO steps after which the policy wrote the completion (its end)
        # The columns of single tokens are null except for a few groups every few steps.
        "token_texts": pa.list_(_TEXT),
        "old_logps": _FLOATS,  # before the update of this step
        "new_logps": _FLOATS,  # after it
        "ratios": _FLOATS,
        "entropies": _FLOATS,  # while sampling, nats
        "advantages": _FLOATS,
        "weights": _FLOATS,  # in the loss, including the denominator
        "held": pa.list_(pa.int8()),  # 1: no gradient, with a ratio above 1; -1: below 1; else 0
        "masked": pa.list_(pa.bool_()),  # not written by the policy
    }
)


def group_rows(
    step: int,
    group: Group,
    verdict: str,
    fate: str,
    penalties_G: Tensor,
    trained: Mapping[tuple[int, int], Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Returns the rows of a group.

    Args:
        penalties_G: the overlong penalty of each completion.
        trained: the columns of completions in the loss, by the number of the group and the place in it.
    """
    prompt = group.prompt
    of_group: dict[str, Any] = {
        "step": step,
        "group": group.number,
        "fate": fate,
        "verdict": verdict,
        "source": prompt.source,
        "prompt": prompt.text,
        "messages": [{name: str(m.get(name, "")) for name in ("role", "content")} for m in prompt.messages] or None,
        "reference": prompt.answer,
    }
    rows: list[dict[str, Any]] = []
    for place, (trajectory, text, grade) in enumerate(zip(group.trajectories, group.texts, group.grades, strict=True)):
        mask_T, found = trajectory.loss_mask_T, trained.get((group.number, place), {})
        row: dict[str, Any] = {
            "completion": place,
            "text": text,
            "tokens": trajectory.tokens_T.tolist(),
            "turns": [
                {"by_policy": by_policy, "num_tokens": len(list(same))} for by_policy, same in groupby(mask_T.tolist())
            ],
            "num_tokens": trajectory.num_tokens,
            "truncated": trajectory.truncated,
            "score": grade.score,
            "correct": grade.correct,
            "answer": grade.answer,
            "stage": grade.stage or grade.kind,
            "parts": [{"name": name, "score": score} for name, score in grade.parts.items()] or None,
            "failure": grade.failure,
            "detail": grade.detail or None,
            "reward": grade.score + float(penalties_G[place]),
            "mean_logp": float(trajectory.logps_T[mask_T].mean()),
            "mean_entropy": float(trajectory.entropies_T[mask_T].mean()),
            "policy_step": trajectory.policy_step,
        }
        if "token_texts" in found:  # a rank that trains on a completion of another rank does not have its entropies
            row["entropies"] = trajectory.entropies_T.tolist()
        rows.append({**of_group, **row, **found})
    return rows


def as_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Returns the rows as a table. Halves of surrogate pairs, which are not Unicode, become question marks."""
    return pa.Table.from_pylist([_valid(row) for row in rows], SCHEMA)


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {name: _valid(item) for name, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], str | Mapping):
        return [_valid(item) for item in value]
    return value
