"""An endless, seeded order of prompts: epoch after epoch, each in its own shuffle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dapo_lightning.types import Prompt, PromptDraw


class PromptStream:
    """Draw number n is the same prompt in every run with this seed, on every rank, however it is reached:
    the only state of a run is how many draws it has taken."""

    def __init__(self, prompts: Sequence[Prompt], seed: int):
        self._prompts, self._seed = prompts, seed
        self._epoch = -1
        self._order = np.empty(0, dtype=int)

    def draws(self, start: int, count: int) -> list[PromptDraw]:
        """Draws start .. start + count - 1."""
        return [PromptDraw(number, self._prompt(number)) for number in range(start, start + count)]

    def _prompt(self, number: int) -> Prompt:
        epoch, place = divmod(number, len(self._prompts))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._prompts))
        return self._prompts[self._order[place]]
