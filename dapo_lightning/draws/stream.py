"""An endless, seeded order of prompts: epoch after epoch, each in its own shuffle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dapo_lightning.types import NumberedPrompt, Prompt


class PromptStream:
    """Number n is the same prompt in every run with this seed and on every rank, whatever was taken before it. The only
    state of a run is therefore the number of prompts that it has taken."""

    def __init__(self, prompts: Sequence[Prompt], seed: int):
        self._prompts, self._seed = prompts, seed
        self._epoch = -1
        self._order = np.empty(0, dtype=int)

    def take(self, start: int, stop: int) -> list[NumberedPrompt]:
        """Returns the prompts with numbers start .. stop - 1."""
        return [NumberedPrompt(number, self._prompt(number)) for number in range(start, stop)]

    def _prompt(self, number: int) -> Prompt:
        epoch, position = divmod(number, len(self._prompts))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._prompts))
        return self._prompts[self._order[position]]
