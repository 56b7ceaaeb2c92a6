"""Draws -> graded groups: encode, roll out, decode, grade. Training and evaluation both sample through here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dapo_lightning.policy import Policy
from dapo_lightning.reward import PendingGrades, Reward, RewardError
from dapo_lightning.rollout import Rollout
from dapo_lightning.rollout.noise import uniform_noise
from dapo_lightning.types import Completion, Generation, Group, PendingGroup, PromptDraw
from dapo_lightning.utils.clock import Clock


@dataclass(frozen=True)
class GroupSampler:
    """Samples and grades groups with the policy's current weights.

    Args:
        seed: keys the sampling noise, together with the stream and the number of each draw.
        clock: charged under "generate" and "grade".
    """

    policy: Policy
    rollout: Rollout
    reward: Reward
    seed: int
    clock: Clock = field(default_factory=Clock)

    def __call__(
        self, draws: Sequence[PromptDraw], num_completions: int, generation: Generation, stream: str
    ) -> list[Group]:
        """One group of `num_completions` per draw, in order.

        Raises:
            RewardError: naming the prompt, if the reward does not give one grade per completion.
        """
        generated = list(self.generated(draws, num_completions, generation, stream))
        return [pending() for together in generated for pending in together]

    def generated(
        self, draws: Sequence[PromptDraw], num_completions: int, generation: Generation, stream: str
    ) -> Iterator[list[PendingGroup]]:
        """The same groups, those that the rollout generates together in one list, when they are asked for.

        They are graded while the next ones are generated; waiting for grades may raise what `__call__` raises.
        """
        if not draws:  # a rank's share of a small round can be empty
            return
        with self.clock("generate"):
            prompts = _Prompts([self.policy.codec.encode(draw.prompt) for draw in draws])
            numbers = [draw.number for draw in draws]
            noise_PGT = uniform_noise(self.seed, stream, numbers, num_completions, generation.max_new_tokens)
            model, end_tokens = self.policy.model, self.policy.codec.end_tokens
            rollout = zip(draws, self.rollout(model, prompts, noise_PGT, generation, end_tokens), strict=True)
        num_generated = 0
        while True:
            together = []
            with self.clock("generate"):
                for draw, completions in rollout:
                    together.append(self._submit(draw, prompts.tokens[num_generated], completions))
                    num_generated += 1
                    if num_generated >= prompts.num_read:
                        break
            if not together:
                return
            yield together

    def _submit(
        self, draw: PromptDraw, prompt_tokens: tuple[int, ...], completions: tuple[Completion, ...]
    ) -> PendingGroup:
        texts = tuple(self.policy.codec.decode(completion.tokens) for completion in completions)
        grades = self.reward.submit([draw.prompt] * len(texts), texts)
        return partial(self._group, draw, prompt_tokens, completions, texts, grades)

    def _group(
        self,
        draw: PromptDraw,
        prompt_tokens: tuple[int, ...],
        completions: tuple[Completion, ...],
        texts: tuple[str, ...],
        pending: PendingGrades,
    ) -> Group:
        with self.clock("grade"):
            grades = tuple(pending())
        if len(grades) != len(texts):
            raise RewardError(
                f"{type(self.reward).__name__} on {draw.prompt.source}: "
                f"{len(grades)} grades for {len(texts)} completions."
            )
        return Group(draw, prompt_tokens, completions, texts, grades)


class _Prompts(Sequence[Any]):
    """Tokenised prompts that know how many of them the rollout has begun with: those it has read."""

    def __init__(self, tokens: list[tuple[int, ...]]):
        self.tokens, self.num_read = tokens, 0

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Any) -> Any:
        end = index.indices(len(self))[1] if isinstance(index, slice) else range(len(self))[index] + 1
        self.num_read = max(self.num_read, end)
        return self.tokens[index]
