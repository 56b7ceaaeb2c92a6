"""Every held-out prompt with its completions, to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.types import Group
from dapo_lightning.utils.atomic import replacing


class EvaluationFile(L.Callback):
    """Writes what the latest evaluation sampled to a JSON-lines file, a prompt a line, in the order of the dataset."""

    def __init__(self, path: str):
        self.path = Path(path)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Rows of all ranks, written by one."""
        rows = Ranks.current().gather([(group.draw.number, _row(group)) for group in pl_module.evaluated_groups])
        if trainer.is_global_zero:
            with replacing(self.path) as partial, partial.open("w", encoding="utf-8") as file:
                for _, row in sorted(rows, key=lambda numbered: numbered[0]):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _row(group: Group) -> dict[str, Any]:
    prompt = group.draw.prompt
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
                "num_tokens": completion.num_tokens,
                "truncated": completion.truncated,
            }
            for text, grade, completion in zip(group.texts, group.grades, group.completions, strict=True)
        ],
    }
