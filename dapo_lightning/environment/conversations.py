"""The conversations of one call of the rollout: between the policy, the environment and the reward."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from torch import Tensor

from dapo_lightning.environment import Dialogue, Environment
from dapo_lightning.policy.codec import Codec
from dapo_lightning.reward import PendingGrades, Reward, RewardError
from dapo_lightning.rollout import Partner
from dapo_lightning.types import Grade, Prompt, Trajectory

log = logging.getLogger(__name__)


@dataclass
class _Row:
    prompt: Prompt
    turns: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    grades: list[Grade] = field(default_factory=list)
    num_written: int = 0

    def dialogue(self) -> Dialogue:
        return Dialogue(self.prompt, tuple(self.turns), tuple(self.messages), tuple(self.grades))


class Conversations(Partner):
    """Grades turns as they end, asks the environment for its replies, and translates between texts and tokens.

    Args:
        prompts: the P prompts.
        num_completions: conversations of each prompt (G).
        max_new_tokens: how many tokens the policy may write in all turns of a conversation.
    """

    def __init__(
        self,
        environment: Environment,
        codec: Codec,
        reward: Reward,
        prompts: Sequence[Prompt],
        num_completions: int,
        max_new_tokens: int,
    ):
        self._environment, self._codec, self._reward = environment, codec, reward
        self._num_completions, self._max_new_tokens = num_completions, max_new_tokens
        self._has_warned = False
        self._rows = [_Row(prompt) for prompt in prompts for _ in range(num_completions)]
        self.max_turn_tokens = min(environment.max_turn_tokens or max_new_tokens, max_new_tokens)
        self.max_message_tokens, self.max_messages = environment.max_message_tokens, environment.num_turns - 1

    def reply(self, rows: Sequence[int], turns: Sequence[Tensor]) -> list[tuple[int, ...] | None]:
        """See `Partner`. A conversation is over after its last turn, and if its tokens are used up."""
        found: dict[int, tuple[int, ...] | None] = {}
        going_on, last = [], {}
        for number, tokens_T in zip(rows, turns, strict=True):
            row = self._rows[number]
            row.turns.append(self._codec.decode(tokens_T))
            row.num_written += len(tokens_T)
            last[number] = int(tokens_T[-1])
            if len(row.turns) < self._environment.num_turns and row.num_written < self._max_new_tokens:
                going_on.append(number)
        if self._environment.grades_turns:
            self._grade(going_on)
        messages = self._environment.reply([self._rows[number].dialogue() for number in going_on]) if going_on else []
        for number, message in zip(going_on, messages, strict=True):
            found[number] = None if message is None else self._encoded(number, message, last[number])
        return [found.get(number) for number in rows]

    def submit(
        self, prompt_number: int, trajectories: Sequence[Trajectory]
    ) -> tuple[tuple[str, ...], Callable[[], list[tuple[Grade, ...]]]]:
        """Starts to grade the last turns of prompt number `prompt_number` of this call, unless they have grades.

        Returns the texts of its G trajectories, and a function that waits for their grades: one for each turn, or one
        for the transcript.
        """
        start = prompt_number * self._num_completions
        rows = self._rows[start : start + self._num_completions]
        for row, trajectory in zip(rows, trajectories, strict=True):
            if len(row.turns) == len(row.messages):  # the last turn was truncated, or there is only one
                row.turns.append(self._codec.decode(trajectory.turns()[-1]))
        missing = [row for row in rows if len(row.grades) < len(row.turns)]
        pending = self._submit(missing) if missing else list

        def wait() -> list[tuple[Grade, ...]]:
            for row, grade in zip(missing, pending(), strict=True):
                row.grades.append(grade)
            return [tuple(row.grades) for row in rows]

        return tuple(row.dialogue().transcript() for row in rows), wait

    def _grade(self, numbers: Iterable[int]) -> None:
        """Grades the last turns of these rows; those of one prompt together."""
        of_prompts = groupby(sorted(numbers), lambda number: number // self._num_completions)
        together = [[self._rows[number] for number in part] for _, part in of_prompts]
        for rows, pending in [(rows, self._submit(rows)) for rows in together]:
            for row, grade in zip(rows, pending(), strict=True):
                row.grades.append(grade)

    def _submit(self, rows: Sequence[_Row]) -> PendingGrades:
        """Submits the last turns of rows of one prompt, or their transcripts."""
        of_turns = self._environment.grades_turns
        texts = [row.turns[-1] if of_turns else row.dialogue().transcript() for row in rows]
        pending, prompt = self._reward.submit([row.prompt for row in rows], texts), rows[0].prompt

        def wait() -> list[Grade]:
            grades = pending()
            if len(grades) != len(texts):
                raise RewardError(
                    f"{type(self._reward).__name__} on {prompt.source}: "
                    f"{len(grades)} grades for {len(texts)} completions."
                )
            return list(grades)

        return wait

    def _encoded(self, number: int, message: str, last: int) -> tuple[int, ...] | None:
        row = self._rows[number]
        tokens = self._codec.encode_reply(message, last)
        if not 0 < len(tokens) <= self.max_message_tokens:
            if not self._has_warned:
                log.warning(
                    "environment: a message on %s has %d tokens and was not sent, which ended the conversation: "
                    "environment.max_message_tokens allows 1 to %d.",
                    row.prompt.source, len(tokens), self.max_message_tokens,
                )  # fmt: skip
            self._has_warned = True
            return None
        row.messages.append(message)
        return tokens
