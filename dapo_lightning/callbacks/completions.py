"""Shows samples of completions in TensorBoard's text tab."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any

import lightning as L

from dapo_lightning.callbacks.tensorboard import summary_writers
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.types import Group


class SampleCompletions(L.Callback):
    """Shows the first completions of the first groups that were trained on, every `every` DAPO steps.

    Args:
        every: DAPO steps between samples; the first step is always included.
    """

    def __init__(self, every: int, num_groups: int, num_completions: int):
        self.every, self.num_groups, self.num_completions = every, num_groups, num_completions

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, groups = outputs["step"].number, outputs["step"].batch.groups[: self.num_groups]
        if not (step == 1 or step % self.every == 0):
            return
        found = dict(Ranks.current().gather([(group.number, self._rows(group)) for group in groups if group.texts]))
        rows = [row for _, of_group in sorted(found.items()) for row in of_group]
        for writer in summary_writers(trainer):
            writer.add_text("completions", _table(rows), step)

    def _rows(self, group: Group) -> list[dict[str, Any]]:
        return [
            {
                "prompt": group.prompt.text,
                "answer": group.prompt.answer,
                "completion": group.texts[i],
                "score": group.grades[i].score,
                "num_tokens": group.trajectories[i].num_tokens,
                "truncated": group.trajectories[i].truncated,
            }
            for i in range(min(self.num_completions, group.size))
        ]


WIDTHS = {"prompt": 36, "completion": 64, "answer": 16}  # characters; TensorBoard does not wrap lines
MAX_CHARACTERS = 4000  # per text; the files in rollouts/ are complete


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns an HTML table, which TensorBoard accepts as Markdown. Texts are escaped, so they appear as written."""
    head = "".join(f"<th>{name}</th>" for name in (*WIDTHS, "score", "tokens"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_table_row, rows))}</tbody></table>"


def _table_row(row: dict[str, Any]) -> str:
    texts = [f"<pre>{html.escape(_wrapped(_shortened(row[name]), width))}</pre>" for name, width in WIDTHS.items()]
    tokens = f"{row['num_tokens']}{' (truncated)' if row['truncated'] else ''}"
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in (*texts, f"{row['score']:+.2f}", tokens)) + "</tr>"


def _shortened(text: str) -> str:
    """Cuts out the middle of a long text, because questions are at its start and answers at its end."""
    half = MAX_CHARACTERS // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[... {left_out} characters ...]\n{text[-half:]}" if left_out > 0 else text


def _wrapped(text: str, width: int) -> str:
    """Breaks the text into lines of at most `width` characters, at spaces where possible."""
    return "\n".join(
        part
        for line in text.split("\n")
        for part in textwrap.wrap(line, width, expand_tabs=False, replace_whitespace=False) or [""]
    )
