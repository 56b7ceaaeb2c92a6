"""The few frozen records that travel between rooms.

Shape suffixes used everywhere: P prompts, G completions per prompt, B = P * G rows,
S prompt tokens, T completion tokens, V vocabulary.  `tokens_BT` is a [B, T] tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """One row of a dataset: what the policy reads, what the reward compares with.

    `source` names the row for error messages ("questions.jsonl:17"); `columns` holds every
    other column, for rewards that need them.  `messages` is the chat, each message with its role and
    content, if the row holds one; `text` is then what the user said last.
    """

    text: str
    answer: str
    source: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class PromptDraw:
    """A prompt taken from a stream. `number` counts draws over the whole run, on all ranks,
    and keys the sampling noise: the same draw gives the same completions on any rank."""

    number: int
    prompt: Prompt


@dataclass(frozen=True)
class Generation:
    """How completions are sampled.

    Raises:
        ValueError: for values that no sampler can honour, naming the key and the remedy.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens}: a completion needs at least one token.")
        if self.temperature <= 0:
            raise ValueError(
                f"temperature={self.temperature}: a group sampled greedily has no variance to learn from, "
                "and log-probs are divided by the temperature. Use a value above 0 (the paper: 1.0)."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: must lie in (0, 1]; 1.0 samples from the whole policy.")


@dataclass(frozen=True)
class Completion:
    """One sampled continuation, on the CPU.

    `tokens` [T] includes the end token when there is one.  `logps` [T] and `entropies` [T] are
    those of the untruncated policy at the sampling temperature (top_p narrows what is drawn, not
    what is recorded).  `truncated`: the token budget was hit without an end token.  `old_logps` [T] are those of a
    forward pass of the policy that sampled it, where `logps` are not and that policy will be gone when they are needed.
    """

    tokens: Tensor
    logps: Tensor
    entropies: Tensor
    truncated: bool
    old_logps: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        return self.tokens.shape[0]


@dataclass(frozen=True)
class Grade:
    """What a reward says of one completion.

    `correct` alone decides what dynamic sampling keeps; shaping never touches it.  `answer` is the final answer
    as the reward read it; None if the completion gives none.  `vote` stands for all spellings of that answer, and is
    what majority voting counts; None: the answer as it stands.  `failure` says why the completion could not be graded
    ("timeout", "memory", "crash", "error"); it then counts as wrong.  `parts` are the scores of the rewards that
    `score` is made of, by name.
    """

    score: float
    correct: bool
    answer: str | None = None
    vote: str | None = None
    failure: str | None = None
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """A prompt with its G graded completions."""

    draw: PromptDraw
    prompt_tokens: tuple[int, ...]
    completions: tuple[Completion, ...]
    texts: tuple[str, ...]
    grades: tuple[Grade, ...]

    @property
    def num_correct(self) -> int:
        return sum(grade.correct for grade in self.grades)

    @property
    def size(self) -> int:
        return len(self.completions)

    def scores_G(self) -> Tensor:
        return torch.tensor([grade.score for grade in self.grades], dtype=torch.float32)

    def lengths_G(self) -> Tensor:
        return torch.tensor([completion.num_tokens for completion in self.completions])

    def truncated_G(self) -> Tensor:
        return torch.tensor([completion.truncated for completion in self.completions])


PendingGroup = Callable[[], Group]
"""A group that has been generated; call to wait for its grades."""


@dataclass(frozen=True)
class Verdict:
    """What dynamic sampling decided about a group, and why (the reason is counted and logged)."""

    keep: bool
    reason: str
