"""Draws -> graded groups: encode, roll out, decode, grade. Training and evaluation both sample through here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dapo_lightning.clock import Clock
from dapo_lightning.policy import Policy
from dapo_lightning.reward import PendingGrades, Reward, RewardError
from dapo_lightning.rollout import Rollout
from dapo_lightning.rollout.noise import uniform_noise
from dapo_lightning.types import Completion, Generation, Group, PromptDraw

Sampled = tuple[tuple[Completion, ...], tuple[str, ...], PendingGrades]


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
        if not draws:  # a rank's share of a small round can be empty
            return []
        prompts = [self.policy.codec.encode(draw.prompt) for draw in draws]
        sampled = []
        with self.clock("generate"):
            numbers = [draw.number for draw in draws]
            noise_PGT = uniform_noise(self.seed, stream, numbers, num_completions, generation.max_new_tokens)
            model, end_tokens = self.policy.model, self.policy.codec.end_tokens
            groups = self.rollout(model, prompts, noise_PGT, generation, end_tokens)
            for draw, completions in zip(draws, groups, strict=True):  # graded while the next ones are generated
                texts = tuple(self.policy.codec.decode(completion.tokens) for completion in completions)
                sampled.append((completions, texts, self.reward.submit([draw.prompt] * len(texts), texts)))
        with self.clock("grade"):
            return [self._group(*row) for row in zip(draws, prompts, sampled, strict=True)]

    def _group(self, draw: PromptDraw, prompt: tuple[int, ...], sampled: Sampled) -> Group:
        completions, texts, pending = sampled
        grades = tuple(pending())
        if len(grades) != len(texts):
            raise RewardError(
                f"{type(self.reward).__name__} on {draw.prompt.source}: "
                f"{len(grades)} grades for {len(texts)} completions."
            )
        return Group(draw, prompt, completions, texts, grades)
