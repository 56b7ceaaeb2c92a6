"""Writes every held-out prompt with its completions to a file for people to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.types import Group
from dapo_lightning.utils.atomic import replacing


class EvaluationFile(L.Callback):
    """Writes the completions of the latest evaluation to a JSON-lines file, one prompt per line in the order of the
    dataset; those of the set `name` of `evaluation.sets` to a file of its own, `evaluation_<name>.jsonl`."""

    def __init__(self, path: str):
        self.path = Path(path)
        self._rows: dict[str, list[tuple[int, dict[str, Any]]]] = {}

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._rows = {name: [] for name in pl_module.due}

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        if batch.name in self._rows:
            self._rows[batch.name] += [(group.number, _row(group)) for group in outputs["groups"]]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Gathers the rows of all ranks; the first rank writes them."""
        for name, mine in self._rows.items():
            rows = Ranks.current().gather(mine)
            if trainer.is_global_zero:
                path = self.path.with_stem(f"{self.path.stem}_{name}") if name else self.path
                with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
                    for _, row in sorted(rows, key=lambda numbered: numbered[0]):
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _row(group: Group) -> dict[str, Any]:
    prompt = group.prompt
    return {
        "source": prompt.source,
        "prompt": [dict(message) for message in prompt.messages] or prompt.text,
        "answer": prompt.answer,
        "num_correct": group.num_correct,
        "num_completions": group.size,
        "completions": [
            {
                "text": text,
                "answer": grade.answer,
                "correct": grade.correct,
                "score": grade.score,
                "failure": grade.failure,
                **({"program": grade.kind} if grade.kind else {}),
                "detail": grade.detail,
                "num_tokens": trajectory.num_tokens,
                "truncated": trajectory.truncated,
                **({"turns": [{"answer": turn.answer, "correct": turn.correct} for turn in turns]} if turns else {}),
            }
            for text, grade, trajectory, turns in zip(
                group.texts,
                group.grades,
                group.trajectories,
                group.turn_grades or [()] * group.size,
                strict=True,
            )
        ],
    }
