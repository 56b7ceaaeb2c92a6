"""The user's own environment: a Python function, given by its dotted path."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dapo_lightning.environment import Dialogue, ReplyError, check_budgets
from dapo_lightning.grading.pool import GradingError, GradingPool
from dapo_lightning.policy.codec import Codec
from dapo_lightning.types import Grade

log = logging.getLogger(__name__)

_PATIENCE = 32  # calls


@dataclass(eq=False)
class Function:
    """Calls a function for each conversation, in child processes with limits, as rewards are.

    The function may have these parameters, in any order: `messages` (the chat so far, from the prompt to the last turn
    of the policy), `answer`, `correct` and `scores` (one entry per turn, if turns are graded), and all columns of the
    data. It returns the next message, or None to end the conversation. It must not keep a state, because
    calls for one conversation may reach different processes.

    If a call raises an exception, takes too long or ends its process, its conversation ends, and the log says so.

    Args:
        path: dotted path, `my_package.my_module.my_function`.
        num_turns, max_turn_tokens, max_message_tokens, grades_turns: see `Environment`.
        num_workers, seconds, megabytes, allow: as for rewards; `seconds` is the time limit of one call.
    """

    path: str
    num_turns: int
    max_turn_tokens: int | None
    max_message_tokens: int
    grades_turns: bool
    num_workers: int
    seconds: float
    megabytes: int
    allow: Sequence[str] | str | None = ()
    _pool: GradingPool = field(init=False, repr=False)
    _works: bool = field(init=False, repr=False, default=False)
    _num_failed: int = field(init=False, repr=False, default=0)

    def __post_init__(self) -> None:
        check_budgets(self.num_turns, self.max_turn_tokens, self.max_message_tokens)
        caller = "dapo_lightning.grading.reply_caller.ReplyCaller"
        limits = (self.num_workers, self.seconds, self.megabytes, self.allow)
        try:
            self._pool = GradingPool(caller, {"path": self.path}, *limits)
        except ValueError as error:
            raise _of_environment(error) from None

    def start(self, codec: Codec) -> None:
        """Starts the child processes, which import the function.

        Raises:
            ValueError: naming the key, if it cannot be imported.
        """
        try:
            self._pool.start()
        except GradingError as error:
            raise _of_environment(error) from None

    def reply(self, dialogues: Sequence[Dialogue]) -> list[str | None]:
        """Calls the function for each conversation and waits for all messages.

        Raises:
            ReplyError: if the function cannot be called with these columns, or if no call has worked since the run
                began.
        """
        outcomes = self._pool.submit([_arguments(dialogue) for dialogue in dialogues]).result()
        for outcome, dialogue in zip(outcomes, dialogues, strict=True):
            if isinstance(outcome.value, list):
                raise ReplyError(f"environment.path={self.path} on {dialogue.prompt.source}: {outcome.value[0]}.")
        failed = [pair for pair in zip(outcomes, dialogues, strict=True) if pair[0].failure is not None]
        if failed:
            outcome, dialogue = failed[0]
            log.warning(
                "environment.path=%s: %d of %d calls failed, which ended their conversations (first %s: %s %s)",
                self.path, len(failed), len(outcomes), dialogue.prompt.source, outcome.failure, outcome.detail,
            )  # fmt: skip
        if not self._works:
            self._works, self._num_failed = len(failed) < len(outcomes), self._num_failed + len(failed)
            if not self._works and self._num_failed >= _PATIENCE:
                last = outcomes[-1]
                raise ReplyError(
                    f"environment.path={self.path}: none of the first {self._num_failed} calls worked. The last one: "
                    f"{last.failure} {last.detail}".rstrip()
                    + ". Call the function outside of a run to find the cause."
                )
        return [outcome.value for outcome in outcomes]

    def final(self, grades: Sequence[Grade]) -> Grade:
        """The grade of the last turn, or of the transcript."""
        return grades[-1]


def _arguments(dialogue: Dialogue) -> dict[str, Any]:
    prompt = dialogue.prompt
    messages = [dict(message) for message in prompt.messages] or [{"role": "user", "content": prompt.text}]
    replies = (*dialogue.messages, None)
    for turn, reply in zip(dialogue.turns, replies, strict=True):
        messages.append({"role": "assistant", "content": turn})
        if reply is not None:
            messages.append({"role": "user", "content": reply})
    own = {
        "messages": messages,
        "answer": prompt.answer,
        "correct": [grade.correct for grade in dialogue.grades],
        "scores": [grade.score for grade in dialogue.grades],
    }
    return dict(prompt.columns) | own


def _of_environment(error: Exception) -> ValueError:
    """The pool and its children speak of the reward, which they usually serve."""
    reason = str(error).partition(": ")[2] if isinstance(error, GradingError) else str(error)
    return ValueError(reason.replace("reward.", "environment."))
