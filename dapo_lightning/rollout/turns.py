"""Conversations with rollouts that sample one turn at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dapo_lightning.rollout import Partner, Rollout
from dapo_lightning.rollout.continued import continued
from dapo_lightning.types import Completion, Generation


def sampled_turns(
    rollout: Rollout,
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    noise_PGT: Tensor,
    generation: Generation,
    end_tokens: Sequence[int],
    partner: Partner | None,
) -> Iterator[list[tuple[Completion, ...]]]:
    """The completions of a rollout, with all their turns if there is a partner. See `Rollout` for arguments and result.

    A rollout that does not converse itself is called again for each turn, with the prompt and the conversation so far
    as its prompt. Tokens are passed on as they were sampled, so the prompts of an engine with a prefix cache only grow.
    No prompt and budget of a call exceed the longest of `prompts`, its completion and its messages together.
    """
    if partner is None:
        yield from rollout(model, prompts, noise_PGT, generation, end_tokens)
    elif getattr(rollout, "converses", False):
        yield from rollout(model, prompts, noise_PGT, generation, end_tokens, partner)  # type: ignore[call-arg]
    else:
        num_completions, num_done = noise_PGT.shape[1], 0
        reach = max(map(len, prompts)) + noise_PGT.shape[2] + partner.max_messages * partner.max_message_tokens
        first = noise_PGT[..., : partner.max_turn_tokens]
        for batch in rollout(model, prompts, first, generation, end_tokens):
            rows = [
                _Row(p * num_completions + g, list(prompts[p]), noise_PGT[p, g], [completion])
                for p, completions in enumerate(batch, start=num_done)
                for g, completion in enumerate(completions)
            ]
            num_done += len(batch)
            going_on = rows
            while going_on := _answered(going_on, partner):
                noise = [row.noise(partner.max_turn_tokens) for row in going_on]
                contexts = [row.context for row in going_on]
                turns = continued(rollout, model, contexts, noise, generation, end_tokens, reach)
                for row, turn in zip(going_on, turns, strict=True):
                    row.turns.append(turn)
            done = [row.completion() for row in rows]
            yield [tuple(done[i : i + num_completions]) for i in range(0, len(done), num_completions)]


@dataclass
class _Row:
    """A conversation. `context` is everything that its next turn follows on."""

    number: int
    context: list[int]
    noise_T: Tensor
    turns: list[Completion]
    messages: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def num_left(self) -> int:
        return len(self.noise_T) - sum(len(turn.tokens_T) for turn in self.turns)

    def noise(self, max_tokens: int) -> Tensor:
        """The random numbers of the next turn, as many as it may have tokens."""
        return self.noise_T[len(self.noise_T) - self.num_left :][:max_tokens]

    def read(self, message: tuple[int, ...]) -> None:
        self.context += [*self.turns[-1].tokens_T.tolist(), *message]
        self.messages.append(message)

    def completion(self) -> Completion:
        parts = [
            self.turns[0],
            *(part for pair in zip(map(_read, self.messages), self.turns[1:], strict=True) for part in pair),
        ]
        return Completion(
            torch.cat([part.tokens_T for part in parts]),
            torch.cat([part.logps_T for part in parts]),
            torch.cat([part.entropies_T for part in parts]),
            self.turns[-1].truncated,
            torch.cat([torch.full((len(part.tokens_T),), number % 2 == 0) for number, part in enumerate(parts)]),
        )


def _read(message: tuple[int, ...]) -> Completion:
    zeros_T = torch.zeros(len(message))
    return Completion(torch.tensor(message), zeros_T, zeros_T, truncated=False)


def _answered(rows: Sequence[_Row], partner: Partner) -> list[_Row]:
    """The rows that go on, among those that have just had a turn; their contexts then include the reply."""
    asked = [row for row in rows if not row.turns[-1].truncated]
    replies = partner.reply([row.number for row in asked], [row.turns[-1].tokens_T for row in asked]) if asked else []
    going_on = []
    for row, message in zip(asked, replies, strict=True):
        if message is not None:
            row.read(message)
            going_on.append(row)
    return going_on
