"""A run folder whose completions try to break out of the page that shows them."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import torch
from conftest import make_group
from sweeps import write_run

from dapo_lightning.callbacks.rollout_table import as_table, group_rows

HOSTILE = {
    "script": "<script>window.hacked = 1; fetch('https://example.com/')</script>",
    "end of script": "</script><script>window.hacked = 1</script>",
    "comment": "<!--<script>",
    "image": "<img src=x onerror='window.hacked=1'><svg/onload=window.hacked=1>",
    "quotes": '"\'`>\\" onmouseover=window.hacked=1 x="${window.hacked=1} {{ 7 * 7 }} {% raw %}',
    "bidi": "right \u202etfel\u202c \u2066x\u2069 \u200b zero",
    "separators": "a\u2028b\u2029c\x00d\x1b[31m",
    "link": "javascript:window.hacked=1 data:text/html,<script>window.hacked=1</script>",
    "long": "<b>" * 350_000,
    "surrogate": "half \ud83d",
}


def write_hostile_run(folder: Path) -> Path:
    """Four steps of groups whose texts are hostile wherever a policy, a dataset or a reward can put text."""
    write_run(folder, num_steps=4)
    (folder / "rollouts").mkdir()
    texts = list(HOSTILE.values())
    for step in range(1, 5):
        rows = []
        for number, (scores, fate, verdict) in enumerate(
            [((1.0, -1.0, 1.0), "trained", "useful"), ((1.0, 1.0, 1.0), "dropped", "all_correct"),
             ((-1.0, -1.0, -1.0), "dropped", "all_wrong")]
        ):  # fmt: skip
            group = make_group(10 * step + number, list(scores), truncated=[False, False, number == 2])
            of_group = group_rows(step, group, verdict, fate, torch.zeros(3), {})
            for place, row in enumerate(of_group):
                text = texts[(3 * (3 * step + number) + place) % len(texts)]
                row |= dict.fromkeys(("text", "answer", "reference", "source", "detail", "stage"), text)
                row |= {"prompt": f"prompt {number}{texts[number]}", "failure": text if place == 1 else None}
                if fate == "trained":
                    row |= {"advantage": row["score"], **_tokens([text[:40], *"<b>&", text[-40:]], row["score"])}
            rows += of_group
        pq.write_table(as_table(rows), folder / f"rollouts/step_{step:06d}.parquet")
    return folder


def _tokens(texts: list[str], advantage: float) -> dict[str, list]:
    size = len(texts)
    return {
        "token_texts": texts, "old_logps": [-0.5] * size, "new_logps": [-0.1] * size, "ratios": [1.4918] * size,
        "entropies": [0.25] * size, "advantages": [advantage] * size, "weights": [0.01] * size,
        "held": [int(advantage > 0)] * size, "masked": [False] * size,
    }  # fmt: skip
