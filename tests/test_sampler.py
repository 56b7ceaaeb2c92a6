"""From draws to graded groups."""

import pytest
import torch

from dapo_lightning.reward import Reward, RewardError
from dapo_lightning.sampler import GroupSampler
from dapo_lightning.types import Completion, Generation, Grade, Prompt, PromptDraw

DRAWS = [PromptDraw(number, Prompt(f"{number}+1=", str(number + 1), f"test:{number}")) for number in range(3)]


class Script(Reward):
    """A rollout and a reward that write down when they are asked."""

    def __init__(self, num_grades=2):
        self.log, self.num_grades = [], num_grades

    def rollout(self, model, prompts, noise_PGT, generation, end_tokens):
        for number, _ in enumerate(prompts):
            self.log.append(f"generate {number}")
            yield tuple(Completion(torch.tensor([40 + g]), torch.zeros(1), torch.zeros(1), True) for g in range(2))

    def submit(self, prompts, completions):
        name = prompts[0].text[0]
        self.log.append(f"submit {name}")

        def wait():
            self.log.append(f"wait {name}")
            return [Grade(float(g), correct=g > 0) for g in range(self.num_grades)]

        return wait


def test_groups_are_graded_while_the_next_ones_are_generated(policy):
    script = Script()
    groups = GroupSampler(policy, script.rollout, script, seed=0)(DRAWS, 2, Generation(1), "train")
    assert script.log == [
        *("generate 0", "submit 0", "generate 1", "submit 1", "generate 2", "submit 2"),
        *("wait 0", "wait 1", "wait 2"),
    ]
    assert [group.draw for group in groups] == DRAWS and all(group.num_correct == 1 for group in groups)


def test_a_reward_that_loses_a_completion_is_an_error(policy):
    script = Script(num_grades=1)
    with pytest.raises(RewardError, match=r"Script on test:0: 1 grades for 2"):
        GroupSampler(policy, script.rollout, script, seed=0)(DRAWS, 2, Generation(1), "train")
