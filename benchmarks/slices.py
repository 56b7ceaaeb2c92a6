"""Decoding steps with and without partial rollouts, counted without a model: `python -m benchmarks.slices`.

The draws are real; the lengths of completions and their correctness are drawn at random: lengths from those of 32
completions of `recipe=long_answers` before its first step, and one in eight is correct, as among these.
"""

import random
from collections.abc import Iterator, Sequence
from statistics import fmean

import torch

from dapo_lightning.algorithm.sampling import Dynamic
from dapo_lightning.draws.fill import PromptDraws, fill
from dapo_lightning.draws.stream import PromptStream
from dapo_lightning.types import Grade, Group, NumberedPrompt, PendingGroup, Prompt, Slice, Trajectory
from dapo_lightning.utils.table import table

LENGTHS = (958, 1358, 1108, 678, 1259, 1296, 1181, 1262, 24, 1190, 1289, 118, 1591, 1567, 954, 1747, 1287, 1142, 1322,
           1142, 1036, 1081, 1020, 1035, 1164, 1301, 1113, 1146, 1056, 1186, 1192, 1192)  # fmt: skip
CORRECT, GROUPS, COMPLETIONS, ROWS, STEPS = 1 / 8, 8, 8, 512, 30


class Counted:
    """Generates nothing, but counts: decoding steps, tokens decoded, and tokens of contexts that are read again."""

    def __init__(self) -> None:
        self.steps = self.decoded = self.read = 0

    def __call__(
        self, prompts: Sequence[NumberedPrompt], part: Slice | None = None, /
    ) -> Iterator[Sequence[PendingGroup]]:
        at_once = ROWS // COMPLETIONS
        for start in range(0, len(prompts), at_once):
            yield self._together(prompts[start : start + at_once], part)

    def _together(self, prompts: Sequence[NumberedPrompt], part: Slice | None) -> list[PendingGroup]:
        found, longest = [], 0
        for numbered in prompts:
            draw = random.Random(numbered.number)
            whole, correct = draw.choices(LENGTHS, k=COMPLETIONS), [draw.random() < CORRECT for _ in range(COMPLETIONS)]
            begun = part.begun.get(numbered.number) if part else None
            before = [len(t.tokens_T) for t in begun.trajectories] if begun else [0] * COMPLETIONS
            after = [min(n, b + part.num_tokens) if part else n for n, b in zip(whole, before, strict=True)]
            longest = max(longest, *(a - b for a, b in zip(after, before, strict=True)))
            self.decoded += sum(after) - sum(before)
            self.read += sum(b for a, b in zip(after, before, strict=True) if a > b)
            found.append(_group(numbered, after, correct if after == whole else None))
        self.steps += longest
        return [lambda group=group: group for group in found]  # type: ignore[misc]


def _group(numbered: NumberedPrompt, lengths: Sequence[int], correct: Sequence[bool] | None) -> Group:
    zeros = [torch.zeros(n) for n in lengths]
    trajectories = tuple(Trajectory(z.long(), z.long() == 0, z, z, truncated=False, policy_step=0) for z in zeros)
    grades = tuple(Grade(2.0 * c - 1, correct=c) for c in correct or ())
    return Group(numbered.number, numbered.prompt, (), trajectories, ("",) * len(grades), grades)


def main() -> None:
    rows: list[list[object]] = []
    options = {"default": {}, "carry": {"surplus": "carry"}}
    options |= {f"carry, partial={n}": {"surplus": "carry", "partial": n} for n in (1024, 512, 256)}
    for name, values in options.items():
        counted, draws = (
            Counted(),
            PromptDraws(PromptStream([Prompt(str(i), "", str(i)) for i in range(997)], 0), GROUPS),
        )
        steps, trained = [], 0
        for _ in range(STEPS):
            before = counted.steps
            batch = fill(draws, counted, Dynamic(6, "train_partial", **values))  # type: ignore[arg-type]
            draws.state = batch.next_state
            steps.append(counted.steps - before)
            trained += len(batch.groups)
        late = steps[2:]
        rows.append(
            [name, f"{fmean(late):.0f}", max(late), f"{counted.decoded / trained:.0f}", f"{counted.read / trained:.0f}"]
        )
        print(*rows[-1], flush=True)
    header = ["sampling", "decoding steps per DAPO step", "at most", "tokens decoded per group trained on"]
    print(table([*header, "tokens read again"], rows))


if __name__ == "__main__":
    main()
