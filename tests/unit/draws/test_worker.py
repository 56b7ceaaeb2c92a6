"""From prompts to graded groups."""

from contextlib import contextmanager

import pytest
import torch

from dapo_lightning.draws.worker import RolloutWorker
from dapo_lightning.reward import Reward, RewardError
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.rollout.hf_generate import HFGenerate
from dapo_lightning.types import Completion, Generation, Grade, NumberedPrompt, Prompt

PROMPTS = [NumberedPrompt(number, Prompt(f"{number}+1=", str(number + 1), f"test:{number}")) for number in range(3)]


class Script(Reward):
    """A rollout and a reward that write down when they are asked."""

    def __init__(self, num_grades=2):
        self.log, self.num_grades = [], num_grades

    def rollout(self, model, prompts, noise_PGT, generation, end_tokens):
        for number, _ in enumerate(prompts):
            self.log.append(f"generate {number}")
            yield [tuple(Completion(torch.tensor([40 + g]), torch.zeros(1), torch.zeros(1), True) for g in range(2))]

    def submit(self, prompts, completions):
        name = prompts[0].text[0]
        self.log.append(f"submit {name}")

        def wait():
            self.log.append(f"wait {name}")
            return [Grade(float(g), correct=g > 0) for g in range(self.num_grades)]

        return wait


def test_groups_are_graded_while_the_next_ones_are_generated(policy):
    script = Script()
    groups = RolloutWorker(policy, script.rollout, script, seed=0)(PROMPTS, 2, Generation(1), "train")
    assert script.log == [
        *("generate 0", "submit 0", "generate 1", "submit 1", "generate 2", "submit 2"),
        *("wait 0", "wait 1", "wait 2"),
    ]
    assert [NumberedPrompt(group.number, group.prompt) for group in groups] == PROMPTS and all(
        group.num_correct == 1 for group in groups
    )


def test_nothing_is_generated_before_it_is_asked_for(policy):
    script = Script()
    generated = RolloutWorker(policy, script.rollout, script, seed=0).generate(PROMPTS, 2, Generation(1), "train")
    assert script.log == []
    ((pending,),) = [next(generated)]
    assert script.log == ["generate 0", "submit 0"]
    assert pending().number == PROMPTS[0].number
    generated.close()  # type: ignore[attr-defined]
    assert script.log == ["generate 0", "submit 0", "wait 0"]


@pytest.mark.parametrize(
    ("rollout", "sizes"), [(Decode(max_rows=4), [2, 1]), (Decode(max_rows=1), [1, 1, 1]), (HFGenerate(), [3])]
)
def test_what_the_rollout_generates_at_once_comes_at_once(policy, rollout, sizes):
    script = Script()
    sampler = RolloutWorker(policy, rollout, script, seed=0)
    generated = list(sampler.generate(PROMPTS, 2, Generation(5), "train"))
    assert [len(together) for together in generated] == sizes
    groups = sampler(PROMPTS, 2, Generation(5), "train")
    assert [pending().texts for together in generated for pending in together] == [group.texts for group in groups]
    assert all(sampler.clock.seconds[name] > 0 for name in ("generate", "grade"))


def test_a_rank_leaves_a_shared_rollout_once_it_has_all_it_needs(policy):
    script = Script()

    class Shared(Decode):
        def __call__(self, *arguments):
            return script.rollout(*arguments)

        @contextmanager
        def ready(self, model):
            script.log.append("ready")
            yield
            script.log.append("done")

        def leave(self):
            script.log.append("leave")

    worker = RolloutWorker(policy, Shared(), script, seed=0)
    with worker.ready():
        generated = worker.generate(PROMPTS[:2], 2, Generation(1), "train")
        next(generated), next(generated)  # a caller may not ask for more
        assert list(worker.generate([], 2, Generation(1), "train")) == []
    batch = ["generate 0", "submit 0", "generate 1", "submit 1", "leave"]
    assert script.log == ["ready", *batch, "leave", "done"]


def test_a_rollout_that_loses_a_prompt_is_an_error(policy):
    script = Script()
    sampler = RolloutWorker(policy, lambda *arguments: list(script.rollout(*arguments))[:2], script, seed=0)
    with pytest.raises(ValueError, match="no completions for test:2"):
        sampler(PROMPTS, 2, Generation(1), "train")


def test_a_reward_that_loses_a_completion_is_an_error(policy):
    script = Script(num_grades=1)
    with pytest.raises(RewardError, match=r"Script on test:0: 1 grades for 2"):
        RolloutWorker(policy, script.rollout, script, seed=0)(PROMPTS, 2, Generation(1), "train")


def test_trajectories_know_which_weights_sampled_them(policy):
    script = Script()
    groups = RolloutWorker(policy, script.rollout, script, seed=0)(PROMPTS, 2, Generation(1), "train", policy_step=7)
    for trajectory in (trajectory for group in groups for trajectory in group.trajectories):
        assert trajectory.policy_step == 7 and trajectory.loss_mask_T.all() and trajectory.old_logps_T is None


def test_a_rollout_with_too_many_groups_or_too_few_completions_is_an_error(policy):
    script = Script()
    worker = RolloutWorker(policy, lambda *given: [group * 2 for group in script.rollout(*given)], script, seed=0)
    with pytest.raises(ValueError, match="more prompts than it was given"):
        worker(PROMPTS, 2, Generation(1), "train")
    with pytest.raises(ValueError, match="2 completions for test:0, not 3"):
        RolloutWorker(policy, script.rollout, script, seed=0)(PROMPTS, 3, Generation(1), "train")
