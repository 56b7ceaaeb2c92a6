"""The frozen records that rooms exchange.

Shape suffixes used everywhere: P prompts, G completions per prompt, B = P * G rows, S prompt tokens, T tokens after the
prompt, V vocabulary. `tokens_BT` is a [B, T] tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """One row of a dataset: the text that the policy reads and the answer that the reward compares with.

    Args:
        source: names the row in error messages ("questions.jsonl:17").
        columns: every other column of the row, for rewards that need them.
        messages: the chat, if the row holds one: each message with its role and content. `text` is then the last
            message of the user.
    """

    text: str
    answer: str
    source: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class NumberedPrompt:
    """A prompt taken from a stream.

    `number` counts the prompts taken over the whole run, on all ranks. It keys the sampling noise: the same number
    gives the same completions on any rank.
    """

    number: int
    prompt: Prompt


@dataclass(frozen=True)
class Generation:
    """How completions are sampled.

    Args:
        temperature: 0 takes the most probable token, which only evaluations may do.
        top_p, top_k, min_p: sample only from the smallest set of tokens whose probabilities add up to top_p, from the
            top_k most probable tokens (None: from all), from tokens that are at least min_p times as probable as the
            most probable one. min_p is applied first, then top_k, then top_p to what they leave.
        stop: [B, T] tokens of the turns so far -> which of them end with a stop text, [B] bool; they then end as with
            an end token. None: only end tokens end them.

    Raises:
        ValueError: if no sampler can use a value; the message names the key and the remedy.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    stop: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens}: a completion needs at least one token.")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature}: must be a finite number, at least 0.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: must lie in (0, 1]; 1.0 samples from the full distribution.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: must be at least 1; null samples from all tokens.")
        if not 0 <= self.min_p < 1:
            raise ValueError(f"min_p={self.min_p}: must lie in [0, 1); 0 samples from all tokens.")

    @property
    def is_restricted(self) -> bool:
        """Whether some tokens with a probability above 0 are never sampled."""
        return self.top_p < 1 or self.top_k is not None or self.min_p > 0


@dataclass(frozen=True)
class Completion:
    """One continuation of a prompt as a rollout returns it, on the CPU.

    Args:
        tokens_T: token ids, including the end token if there is one.
        logps_T: log-probs at the sampling temperature under the full distribution (top_p, top_k and min_p restrict
            which tokens are sampled, but not the log-probs that are recorded).
        entropies_T: entropies of the same distributions, in nats.
        truncated: whether the token budget was used up before an end token.
        written_T: False where the token belongs to a message that the policy read between two turns, bool; None if
            there is only one turn. Log-probs and entropies of such tokens are 0.
    """

    tokens_T: Tensor
    logps_T: Tensor
    entropies_T: Tensor
    truncated: bool
    written_T: Tensor | None = None


@dataclass(frozen=True)
class Trajectory:
    """Everything that follows a prompt and is trained on, on the CPU.

    Lengths, punishments and denominators count the tokens of the loss mask only.

    A rank has the values of tensors only of trajectories that it generated or trains on. Of all others, it has the loss
    masks; their other tensors are on the device "meta", which have a shape but no values.

    Args:
        tokens_T: token ids of all turns.
        loss_mask_T: True where the policy wrote the token; False where an environment did.
        logps_T: log-probs recorded while sampling (see `Completion`); any value where the mask is False.
        entropies_T: entropies recorded while sampling, in nats.
        truncated: whether the token budget was used up before the policy wrote an end token.
        policy_step: number of DAPO steps that the policy had been trained for when it sampled the trajectory, or with
            partial rollouts, its last tokens.
        old_logps_T: log-probs from a forward pass of the policy that sampled the trajectory (line 3 of Algorithm 1);
            None until they are known. With partial rollouts, they may be known for the first tokens only.
        values_T: values that the critic gave to the states before each token when it was sampled; None without a
            critic.
        returns_T: what the critic is trained to predict instead; None without a critic.
        reference_logps_T: log-probs under the reference copy; None until they are known.
        token_rewards_T: rewards of single tokens, which are added to the reward at the last one (the KL penalty, with
            `kl.place=reward`); None if there are none.
        earlier: with partial rollouts, the policies that wrote the first tokens, in order: the number of DAPO steps
            that each had been trained for, and the number of tokens that it wrote.
    """

    tokens_T: Tensor
    loss_mask_T: Tensor
    logps_T: Tensor
    entropies_T: Tensor
    truncated: bool
    policy_step: int
    old_logps_T: Tensor | None = None
    values_T: Tensor | None = None
    returns_T: Tensor | None = None
    reference_logps_T: Tensor | None = None
    token_rewards_T: Tensor | None = None
    earlier: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(completion: Completion, policy_step: int) -> Trajectory:
        """Returns the trajectory of a completion, whose loss mask is the tokens that the policy wrote."""
        written_T = completion.written_T
        return Trajectory(
            completion.tokens_T,
            torch.ones_like(completion.tokens_T, dtype=torch.bool) if written_T is None else written_T,
            completion.logps_T,
            completion.entropies_T,
            completion.truncated,
            policy_step,
        )

    @property
    def num_tokens(self) -> int:
        """Number of tokens that the policy wrote."""
        return int(self.loss_mask_T.sum())

    @property
    def num_earlier(self) -> int:
        """Number of tokens that earlier policies wrote than the one that wrote the last token."""
        return sum(num_tokens for _, num_tokens in self.earlier)

    def turns(self) -> list[Tensor]:
        """The tokens that the policy wrote, turn by turn: the stretches between messages of the environment."""
        begins_T = torch.cat([self.loss_mask_T[:1], self.loss_mask_T[1:] & ~self.loss_mask_T[:-1]])
        turn_T = begins_T.cumsum(0)
        return [self.tokens_T[self.loss_mask_T & (turn_T == turn)] for turn in range(1, int(begins_T.sum()) + 1)]


@dataclass(frozen=True)
class Grade:
    """The verdict of a reward on one completion.

    Args:
        score: the reward before overlong shaping.
        correct: whether the answer is correct; dynamic sampling uses only this, and shaping never changes it.
        answer: the final answer that the reward found; None if the completion gives none.
        vote: one text for all spellings of that answer, which majority voting counts; None uses the answer itself.
        failure: why the completion could not be graded ("timeout", "memory", "crash", "error"); it then counts as
            wrong.
        detail: what happened then, for people to read.
        stage: how the reward decided, as it names it (`reward=math`: "string", "number", "symbolic", ...); None if it
            has only one way.
        parts: the scores that `score` is the weighted sum of, by name.
        kind: the outcome of a program ("passed", or why it failed); None for rewards that run none.
    """

    score: float
    correct: bool
    answer: str | None = None
    vote: str | None = None
    failure: str | None = None
    detail: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    kind: str | None = None
    stage: str | None = None


@dataclass(frozen=True)
class Group:
    """A prompt with its G graded trajectories.

    With partial rollouts, a group is unfinished until all of its trajectories have ended; it then has neither texts nor
    grades.

    Args:
        number: the number of the prompt (see `NumberedPrompt`).
        texts: what the policy wrote, and what the environment replied between its turns; empty on a rank that did not
            generate the group.
        turn_grades: for each trajectory, the grade of the answer in each of its turns, or nothing if turns are not
            graded; empty if there can be only one turn.
    """

    number: int
    prompt: Prompt
    prompt_tokens: tuple[int, ...]
    trajectories: tuple[Trajectory, ...]
    texts: tuple[str, ...]
    grades: tuple[Grade, ...]
    turn_grades: tuple[tuple[Grade, ...], ...] = ()

    @property
    def is_finished(self) -> bool:
        return bool(self.grades)

    @property
    def num_correct(self) -> int:
        return sum(grade.correct for grade in self.grades)

    @property
    def size(self) -> int:
        return len(self.trajectories)

    def scores_G(self) -> Tensor:
        """Rewards before shaping, float32."""
        return torch.tensor([grade.score for grade in self.grades], dtype=torch.float32)

    def lengths_G(self) -> Tensor:
        """Numbers of tokens that the policy wrote."""
        return torch.tensor([trajectory.num_tokens for trajectory in self.trajectories])

    def truncated_G(self) -> Tensor:
        """Whether each trajectory was truncated, bool."""
        return torch.tensor([trajectory.truncated for trajectory in self.trajectories])


@dataclass(frozen=True)
class Slice:
    """A part of the generation of groups, for partial rollouts.

    Args:
        num_tokens: how many tokens each unfinished completion may be given.
        begun: the unfinished groups that go on, by number. All other prompts begin a new group.
    """

    num_tokens: int
    begun: Mapping[int, Group]


PendingGroup = Callable[[], Group]
"""A group that has been generated; call it to wait for its grades."""


@dataclass(frozen=True)
class Verdict:
    """The decision of dynamic sampling about a group, with its reason, which is counted and logged."""

    keep: bool
    reason: str
