"""Prompts -> graded groups: encode, generate, converse, decode, grade. Both training and evaluation use this."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from dapo_lightning.distributed.sharding import gathered
from dapo_lightning.draws.slices import has_ended, sliced
from dapo_lightning.environment import Environment
from dapo_lightning.environment.conversations import Conversations
from dapo_lightning.environment.single_turn import SingleTurn
from dapo_lightning.policy import Policy
from dapo_lightning.reward import Reward
from dapo_lightning.rollout import Rollout
from dapo_lightning.rollout.finite import check_finite
from dapo_lightning.rollout.noise import uniform_noise
from dapo_lightning.rollout.turns import sampled_turns
from dapo_lightning.types import Completion, Generation, Grade, Group, NumberedPrompt, PendingGroup, Slice, Trajectory
from dapo_lightning.utils.clock import Clock


@dataclass(frozen=True)
class RolloutWorker:
    """Samples and grades groups with the current weights of the policy.

    Args:
        seed: keys the sampling noise, together with the stream and the number of each prompt.
        clock: measures the time spent under "generate" and "grade". Grading on which the next turn of a conversation
            depends counts as "generate".
        environment: replies to the policy between its turns.
    """

    policy: Policy
    rollout: Rollout
    reward: Reward
    seed: int
    clock: Clock = field(default_factory=Clock)
    environment: Environment = field(default_factory=SingleTurn)

    def __call__(
        self,
        prompts: Sequence[NumberedPrompt],
        num_completions: int,
        generation: Generation,
        stream: str,
        policy_step: int = 0,
    ) -> list[Group]:
        """Returns one group of `num_completions` for each prompt, in order.

        Raises:
            RewardError: naming the prompt, if the reward does not give one grade for each completion.
            NotFiniteError: if the weights of the policy, or its logits, are not finite.
        """
        batches = list(self.generate(prompts, num_completions, generation, stream, policy_step))
        return [pending() for batch in batches for pending in batch]

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The context in which groups may be generated. All ranks enter and leave it together; within it, the weights
        do not change."""
        with ExitStack() as stack:
            with self.clock("generate"):
                stack.enter_context(getattr(self.rollout, "ready", gathered)(self.policy.model))
            yield

    def generate(
        self,
        prompts: Sequence[NumberedPrompt],
        num_completions: int,
        generation: Generation,
        stream: str,
        policy_step: int = 0,
        part: Slice | None = None,
    ) -> Iterator[list[PendingGroup]]:
        """Yields the same groups in lists. The groups of a list are generated together, once the list is requested.

        Groups are graded while the next ones are generated. Waiting for a group may raise the errors of `__call__`.

        Args:
            stream: the purpose of the prompts ("train" or "validation"), each of which has its own noise.
            policy_step: number of DAPO steps that the policy has been trained for.
            part: generates only a slice; groups that it does not finish have no grades.
        """
        if not prompts:  # a rank's share of a small round can be empty
            self._leave()
            return
        with self.clock("generate"):
            tokens = [tuple(self.policy.codec.encode(numbered.prompt)) for numbered in prompts]
            numbers = [numbered.number for numbered in prompts]
            noise_PGT = uniform_noise(self.seed, stream, numbers, num_completions, generation.max_new_tokens)
            model, codec = self.policy.model, self.policy.codec
            conversations = Conversations(
                self.environment,
                codec,
                self.reward,
                [numbered.prompt for numbered in prompts],
                num_completions,
                generation.max_new_tokens,
            )
            partner = conversations if self.environment.num_turns > 1 else None
            given = self.rollout, model, tokens, noise_PGT, generation, codec.end_tokens
            if part is None:
                batches = _trajectories(sampled_turns(*given, partner), policy_step)
            else:
                batches = iter([sliced(*given, prompts, part, policy_step)])
        num_done = 0
        while True:
            with self.clock("generate"):
                batch = next(batches, None)
                if batch is None:
                    break
                these = prompts[num_done : num_done + len(batch)]
                _check(batch, these, num_completions)
                submitted: list[PendingGroup] = []
                for row, (trajectories, numbered) in enumerate(zip(batch, these, strict=True), start=num_done):
                    check_finite(trajectories, model, numbered.prompt.source)
                    group = partial(Group, numbered.number, numbered.prompt, tokens[row], trajectories)
                    is_finished = part is None or all(has_ended(t, codec.end_tokens) for t in trajectories)
                    submitted.append(
                        partial(self._graded, group, *conversations.submit(row, trajectories))
                        if is_finished
                        else partial(group, (), ())
                    )
                num_done += len(batch)
                if num_done == len(prompts):
                    self._leave()
            yield submitted
        if num_done < len(prompts):
            raise ValueError(f"the rollout returned no completions for {prompts[num_done].prompt.source}.")

    def _leave(self) -> None:
        """Waits for the ranks with which the rollout shares an engine, if there are any."""
        with self.clock("generate"):
            getattr(self.rollout, "leave", lambda: None)()

    def _graded(
        self, group: Callable[..., Group], texts: tuple[str, ...], pending: Callable[[], list[tuple[Grade, ...]]]
    ) -> Group:
        """Waits for the grades of a group of which everything else is known."""
        with self.clock("grade"):
            found = pending()
        environment = self.environment
        turn_grades = tuple(grades if environment.grades_turns else () for grades in found)
        return group(texts, tuple(map(environment.final, found)), turn_grades if environment.num_turns > 1 else ())


def _trajectories(
    batches: Iterator[list[tuple[Completion, ...]]], policy_step: int
) -> Iterator[list[tuple[Trajectory, ...]]]:
    for batch in batches:
        yield [tuple(Trajectory.of(completion, policy_step) for completion in completions) for completions in batch]


def _check(batch: Sequence[Sequence[Trajectory]], prompts: Sequence[NumberedPrompt], num_completions: int) -> None:
    if len(batch) > len(prompts):
        raise ValueError("the rollout returned completions for more prompts than it was given.")
    for numbered, completions in zip(prompts, batch, strict=True):
        if len(completions) != num_completions:
            raise ValueError(
                f"the rollout returned {len(completions)} completions for {numbered.prompt.source}, "
                f"not {num_completions}."
            )
