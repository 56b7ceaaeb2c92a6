"""The scorers that come with the tasks of reasoning-gym."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dapo_lightning.grading.pattern import compiled


class Scorer:
    """Scores the answer that the one group of `pattern` gives in its last match; None: the whole text.

    Raises:
        ValueError: if `pattern` is no such regular expression.
    """

    def __init__(self, task: str, options: Mapping[str, Any], pattern: str | None):
        from reasoning_gym import create_dataset

        self._dataset = create_dataset(task, seed=0, size=1, **options)
        self._pattern = None if pattern is None else compiled(pattern)

    def __call__(self, item: tuple[dict[str, Any], str]) -> tuple[float, str | None]:
        """(the task's item, completion) -> score in [0, 1] and the answer that was read."""
        entry, completion = item
        answer = self._answer(completion)
        return (0.0 if answer is None else float(self._dataset.score_answer(answer, entry))), answer

    def _answer(self, completion: str) -> str | None:
        if self._pattern is None:
            return completion.strip()
        answer = None
        for match in self._pattern.finditer(completion):
            answer = match[1]
        return answer
